"""The key that signs service account tokens: its files, its JWKS, and the legacy tokens of a controller-manager."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from jwt.algorithms import RSAAlgorithm

if TYPE_CHECKING:
    from pathlib import Path

LEGACY_ISSUER = "kubernetes/serviceaccount"


class AccountKey:
    """An RSA key in `directory`, as kubeadm makes one (sa.key, sa.pub)."""

    def __init__(self, directory: Path) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.private_file = directory / "sa.key"
        self.private_file.touch(mode=0o600)
        self.private_file.write_bytes(
            self._key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
        )
        public = self._key.public_key()
        self.public_file = directory / "sa.pub"
        self.public_file.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
        spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.kid = base64.urlsafe_b64encode(hashlib.sha256(spki).digest()).rstrip(b"=").decode()
        """As API servers since 1.16 or so name a key: the hash of its SubjectPublicKeyInfo."""

    def jwks(self, *, with_kid: bool) -> bytes:
        """The public key as a JWKS. An age whose tokens have an empty kid is served by a key without one."""
        key = RSAAlgorithm.to_jwk(self._key.public_key(), as_dict=True)
        entry = {"use": "sig", "kty": "RSA", "alg": "RS256", "n": key["n"], "e": key["e"]}
        return json.dumps({"keys": [{**entry, "kid": self.kid} if with_kid else entry]}).encode()

    def legacy_token(self, namespace: str, account: str, uid: str, secret: str, *, with_kid: bool) -> str:
        """A token as a controller-manager puts into a Secret: no audience, no expiry, bound to that Secret only."""
        prefix = "kubernetes.io/serviceaccount"
        claims = {
            "iss": LEGACY_ISSUER,
            f"{prefix}/namespace": namespace,
            f"{prefix}/secret.name": secret,
            f"{prefix}/service-account.name": account,
            f"{prefix}/service-account.uid": uid,
            "sub": f"system:serviceaccount:{namespace}:{account}",
        }
        return jwt.encode(claims, self._key, "RS256", headers={"typ": None, "kid": self.kid if with_kid else ""})
