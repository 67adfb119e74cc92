"""Service-account tokens of the shape that a Kubernetes API server issues (pkg/serviceaccount/claims.go, KEP-4193)."""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshpki_local.settings import ISSUER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.identity import ServiceAccountRef

KEY_BITS: Final = 2048
_EXPIRED_LIFE: Final = 600
"""How long a token that is asked for as already expired lived, in seconds."""


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """What to say in a token. `lifetime_seconds` counts from now; zero or less makes one that has expired."""

    account: ServiceAccountRef
    audience: str
    lifetime_seconds: int


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """The installation's signing key, and the name it goes by."""

    private: rsa.RSAPrivateKey = field(repr=False)
    kid: str

    @classmethod
    def of(cls, private: rsa.RSAPrivateKey) -> IssuerKey:
        """Name the key as Kubernetes does: base64url of the SHA-256 of the public key's DER."""
        spki = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return cls(private, _base64url(hashlib.sha256(spki).digest()))

    def jwks(self) -> bytes:
        """The key set (RFC 7517) as an API server shows it at /openid/v1/jwks."""
        numbers = self.private.public_key().public_numbers()
        key = {
            "use": "sig",
            "kty": "RSA",
            "kid": self.kid,
            "alg": "RS256",
            "n": _base64url(numbers.n.to_bytes((numbers.n.bit_length() + 7) // 8)),
            "e": _base64url(numbers.e.to_bytes((numbers.e.bit_length() + 7) // 8)),
        }
        return json.dumps({"keys": [key]}, indent=2).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Uids:
    """The UIDs of an installation's objects: made once from its key's name, so that they need no store."""

    seed: str

    def of(self, kind: str, name: str) -> str:
        """The UID of one object: the same for as long as the installation stands, and no other's."""
        return str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_URL, f"{ISSUER}/{self.seed}"), f"{kind}/{name}"))


def claims(request: TokenRequest, uids: Uids, *, node: str, now: int, token_id: str) -> Mapping[str, object]:
    """The claims of a token that is bound to a pod, in the order in which an API server writes them."""
    account = request.account
    expires = now + request.lifetime_seconds
    issued = now if request.lifetime_seconds > 0 else expires - _EXPIRED_LIFE
    pod = f"{account.name}-0"
    return {
        "aud": [request.audience],
        "exp": expires,
        "iat": issued,
        "iss": ISSUER,
        "jti": token_id,
        "kubernetes.io": {
            "namespace": account.namespace,
            "node": {"name": node, "uid": uids.of("node", node)},
            "pod": {"name": pod, "uid": uids.of("pod", f"{account.namespace}/{pod}")},
            "serviceaccount": {"name": account.name, "uid": uids.of("serviceaccount", str(account))},
        },
        "nbf": issued,
        "sub": account.subject,
    }


def mint(key: IssuerKey, request: TokenRequest, *, node: str, now: int) -> str:
    """Sign one token. The header holds `alg` and `kid` and no `typ`, as an API server's does."""
    said = claims(request, Uids(key.kid), node=node, now=now, token_id=str(uuid.uuid4()))
    return jwt.encode(dict(said), key.private, algorithm="RS256", headers={"kid": key.kid, "typ": None})


def _base64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
