"""The physical limit: what one certificate costs in cryptography alone, through `cryptography`, in this process."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

if TYPE_CHECKING:
    from collections.abc import Callable


REQUESTS = 16


class Primitives:
    """The three operations no CA can do without: verify the CSR (P-256), verify the token (RS256), sign (P-256).

    A CSR brings its own key, another one each time: to verify it, that key has to be loaded. The keys of tokens and of
    the CA are at hand. How much less it would be with the CSR's key at hand too is measured beside it.
    """

    def __init__(self) -> None:
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self._rsa = rsa.generate_private_key(65537, 2048)
        self._message = bytes(range(256)) * 2
        self._ecdsa, self._pkcs1, self._sha256 = ec.ECDSA(hashes.SHA256()), padding.PKCS1v15(), hashes.SHA256()
        requests = [self._request() for _ in range(REQUESTS)]
        self._requests = itertools.cycle(requests)
        self._at_hand, self._at_hand_signature = _public_key(requests[0][0]), requests[0][1]
        self._rsa_signature = self._rsa.sign(self._message, self._pkcs1, self._sha256)
        self._rsa_public = self._rsa.public_key()

    def _request(self) -> tuple[bytes, bytes]:
        key = ec.generate_private_key(ec.SECP256R1())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return spki, key.sign(self._message, self._ecdsa)

    def verify_csr(self) -> None:
        spki, signature = next(self._requests)
        _public_key(spki).verify(signature, self._message, self._ecdsa)

    def verify_csr_at_hand(self) -> None:
        self._at_hand.verify(self._at_hand_signature, self._message, self._ecdsa)

    def verify_token(self) -> None:
        self._rsa_public.verify(self._rsa_signature, self._message, self._pkcs1, self._sha256)

    def sign(self) -> None:
        self._ec.sign(self._message, self._ecdsa)

    def loading(self, times: int) -> float:
        """CPU microseconds that loading the key takes of `verify_csr`."""
        return cpu_us(self.verify_csr, times) - cpu_us(self.verify_csr_at_hand, times)

    def round(self, times: int) -> dict[str, float]:
        """CPU microseconds of each."""
        return {
            name: cpu_us(operation, times)
            for name, operation in (
                ("CSR: load its key, verify", self.verify_csr),
                ("token verify", self.verify_token),
                ("certificate sign", self.sign),
            )
        }


def _public_key(spki: bytes) -> ec.EllipticCurvePublicKey:
    key = load_der_public_key(spki)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return key


def cpu_us(operation: Callable[[], object], times: int) -> float:
    """CPU microseconds of this process for one call."""
    began = time.process_time()
    for _ in range(times):
        operation()
    return (time.process_time() - began) / times * 1e6
