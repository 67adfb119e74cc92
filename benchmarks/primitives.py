"""The physical limit: what one certificate costs in cryptography alone, through `cryptography`, in this process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

if TYPE_CHECKING:
    from collections.abc import Callable


class Primitives:
    """The three operations no CA can do without: verify the CSR (P-256), verify the token (RS256), sign (P-256)."""

    def __init__(self) -> None:
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self._rsa = rsa.generate_private_key(65537, 2048)
        self._message = bytes(range(256)) * 2
        self._ecdsa, self._pkcs1, self._sha256 = ec.ECDSA(hashes.SHA256()), padding.PKCS1v15(), hashes.SHA256()
        self._ec_signature = self._ec.sign(self._message, self._ecdsa)
        self._rsa_signature = self._rsa.sign(self._message, self._pkcs1, self._sha256)
        self._ec_public, self._rsa_public = self._ec.public_key(), self._rsa.public_key()

    def verify_csr(self) -> None:
        self._ec_public.verify(self._ec_signature, self._message, self._ecdsa)

    def verify_token(self) -> None:
        self._rsa_public.verify(self._rsa_signature, self._message, self._pkcs1, self._sha256)

    def sign(self) -> None:
        self._ec.sign(self._message, self._ecdsa)

    def round(self, times: int) -> dict[str, float]:
        """CPU microseconds of each."""
        return {
            name: cpu_us(operation, times)
            for name, operation in (
                ("CSR verify", self.verify_csr),
                ("token verify", self.verify_token),
                ("certificate sign", self.sign),
            )
        }


def cpu_us(operation: Callable[[], object], times: int) -> float:
    """CPU microseconds of this process for one call."""
    began = time.process_time()
    for _ in range(times):
        operation()
    return (time.process_time() - began) / times * 1e6
