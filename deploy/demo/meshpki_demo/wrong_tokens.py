"""Tokens that a careful CA refuses, each made from a real one by one change; and the one right token, as a control.

Most of them carry the true signature of the token issuer: that takes its key, which only this demonstration, as owner
of the whole installation, can read.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

HOUR: Final = 3600
API_SERVER_AUDIENCE: Final = "https://kubernetes.default.svc"
LEGACY_ISSUER: Final = "kubernetes/serviceaccount"
LEGACY_NAMES: Final = {
    "namespace": "default",
    "secret.name": "client-token-x7k2p",
    "service-account.name": "client",
    "service-account.uid": "3f1c9a44-0000-4000-8000-000000000000",
}


@dataclass(frozen=True, slots=True)
class WrongToken:
    """What is wrong with it, the reason that the CA has to give, and the token (None: no authorization header)."""

    story: str
    reason: str
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Forge:
    """Makes wrong tokens out of a right one. Times are epoch seconds."""

    right: str = field(repr=False)
    issuer_key: bytes = field(repr=False)
    now: int

    @classmethod
    def open(cls, token: Path, issuer_key: Path) -> Forge:
        """Read the token of a workload and the key of the local token issuer."""
        return cls(token.read_text(encoding="ascii").strip(), issuer_key.read_bytes(), int(time.time()))

    def all(self) -> Iterator[WrongToken]:
        """Every wrong token of the story, in its order."""
        claims = jwt.decode(self.right, options={"verify_signature": False})
        stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        expired = {**claims, "iat": self.now - 2 * HOUR, "nbf": self.now - 2 * HOUR, "exp": self.now - HOUR}
        yield WrongToken("no token at all", "token_missing", None)
        yield WrongToken(
            "for the API server, not for us",
            "token_wrong_audience",
            self._signed({**claims, "aud": [API_SERVER_AUDIENCE]}),
        )
        yield WrongToken("expired an hour ago", "token_expired", self._signed(expired))
        yield WrongToken(
            "signed by a stranger, same kid",
            "token_bad_signature",
            jwt.encode(claims, stranger, algorithm="RS256", headers={"kid": self._kid}),
        )
        yield WrongToken("legacy: from a Secret, endless", "token_legacy", self._signed(self._legacy(claims)))
        yield WrongToken(
            "unsigned: alg none",
            "token_algorithm_not_allowed",
            jwt.encode(claims, "", algorithm="none", headers={"kid": self._kid}),
        )

    @property
    def _kid(self) -> str:
        return str(jwt.get_unverified_header(self.right)["kid"])

    def _signed(self, claims: Mapping[str, Any]) -> str:  # Any: claims are JSON, whatever the issuer put there
        return jwt.encode(dict(claims), self.issuer_key, algorithm="RS256", headers={"kid": self._kid})

    @staticmethod
    def _legacy(claims: Mapping[str, Any]) -> dict[str, Any]:  # Any: as above
        """What kube-controller-manager writes into Secrets: flat names, no audience, no expiry."""
        flat = {f"kubernetes.io/serviceaccount/{name}": value for name, value in LEGACY_NAMES.items()}
        return {"iss": LEGACY_ISSUER, "sub": claims["sub"], **flat}
