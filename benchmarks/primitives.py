"""The physical limit: what one certificate costs in cryptography alone, through `cryptography`, in this process."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from meshpki.ca.keys import spki_of

if TYPE_CHECKING:
    from collections.abc import Callable


REQUESTS = 16


class Primitives:
    """The three operations no CA can do without: verify the CSR (P-256), verify the token (RS256), sign (P-256).

    A CSR comes as PEM with a key of its own, another one each time. The keys of tokens and of the CA are at hand. What
    it would be if a bare key and a signature came in place of each CSR is measured beside it.
    """

    def __init__(self) -> None:
        self._ec = ec.generate_private_key(ec.SECP256R1())
        self._rsa = rsa.generate_private_key(65537, 2048)
        self._message = bytes(range(256)) * 2
        self._ecdsa, self._pkcs1, self._sha256 = ec.ECDSA(hashes.SHA256()), padding.PKCS1v15(), hashes.SHA256()
        requests = [_request() for _ in range(REQUESTS)]
        self._requests = itertools.cycle([request.public_bytes(Encoding.PEM) for request in requests])
        self._bare = itertools.cycle([_bare(request) for request in requests])
        self._rsa_signature = self._rsa.sign(self._message, self._pkcs1, self._sha256)
        self._rsa_public = self._rsa.public_key()

    def verify_csr(self) -> None:
        assert x509.load_pem_x509_csr(next(self._requests)).is_signature_valid

    def verify_bare(self) -> None:
        spki, signature, message = next(self._bare)
        key = load_der_public_key(spki)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(signature, message, self._ecdsa)

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

    def wrapping(self, times: int) -> float:
        """CPU microseconds that a CSR takes beyond its key and its signature."""
        return cpu_us(self.verify_csr, times) - cpu_us(self.verify_bare, times)


def _request() -> x509.CertificateSigningRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())


def _bare(request: x509.CertificateSigningRequest) -> tuple[bytes, bytes, bytes]:
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return spki_of(key), request.signature, request.tbs_certrequest_bytes


def cpu_us(operation: Callable[[], object], times: int) -> float:
    """CPU microseconds of this process for one call."""
    began = time.process_time()
    for _ in range(times):
        operation()
    return (time.process_time() - began) / times * 1e6
