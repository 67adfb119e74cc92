"""Requests in forms that no library writes, and the vectors of `cryptography`, each with our verdict on it."""

from __future__ import annotations

import base64
from importlib import resources
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki.ca import der, pem
from meshpki.ca.csr import LABEL
from support.authority import key, make_csr

if TYPE_CHECKING:
    from collections.abc import Callable

BASIC_CONSTRAINTS = der.extension("2.5.29.19", der.element(der.SEQUENCE, b""))


def reassemble(request: str, change: Callable[[list[bytes]], None], signer: object = None) -> str:
    """Change the parts of a request's CertificationRequestInfo and sign it again, if a P-256 key is given."""
    outer = der.children(pem.decode_one(request.encode(), LABEL))
    parts = der.children(outer[0])
    change(parts)
    info = der.element(der.SEQUENCE, b"".join(parts))
    if isinstance(signer, ec.EllipticCurvePrivateKey):
        outer[2] = der.bit_string(signer.sign(info, ec.ECDSA(hashes.SHA256())))
    return pem.encode(der.element(der.SEQUENCE, info + outer[1] + outer[2]), LABEL)


def extension_request(*extensions: bytes) -> bytes:
    """The attribute that holds extensions (RFC 2985 section 5.4.2)."""
    value = der.element(0x31, der.element(der.SEQUENCE, b"".join(extensions)))
    return der.element(0xA0, der.element(der.SEQUENCE, der.object_identifier("1.2.840.113549.1.9.14") + value))


def with_extensions(*extensions: bytes) -> str:
    """A request, well signed, for these extensions."""
    return reassemble(make_csr(), lambda parts: parts.__setitem__(3, extension_request(*extensions)), signer=key())


VECTORS = sorted(path.name for path in resources.files("cryptography_vectors").joinpath("x509", "requests").iterdir())
VERDICTS = {
    "bad-version.pem": "csr_malformed",
    "basic_constraints.pem": "csr_signature_algorithm_not_allowed",
    "challenge-invalid.der": "csr_bad_signature",
    "challenge-multi-valued.der": "csr_bad_signature",
    "challenge-unstructured.pem": "rsa-2048",
    "challenge.pem": "rsa-2048",
    "dsa_sha1.der": "csr_key_not_allowed",
    "dsa_sha1.pem": "csr_key_not_allowed",
    "ec_sha256.der": "ec-p384",
    "ec_sha256.pem": "ec-p384",
    "ec_sha256_old_header.pem": "ec-p384",
    "freeipa-bad-critical.pem": "csr_extension_malformed",
    "invalid_signature.pem": "csr_key_not_allowed",
    "long-form-attribute.pem": "csr_bad_signature",
    "rsa_md4.der": "csr_signature_algorithm_not_allowed",
    "rsa_md4.pem": "csr_signature_algorithm_not_allowed",
    "rsa_sha1.der": "csr_signature_algorithm_not_allowed",
    "rsa_sha1.pem": "csr_signature_algorithm_not_allowed",
    "rsa_sha256.der": "rsa-2048",
    "rsa_sha256.pem": "rsa-2048",
    "san_rsa_sha1.der": "csr_signature_algorithm_not_allowed",
    "san_rsa_sha1.pem": "csr_signature_algorithm_not_allowed",
    "two_basic_constraints.pem": "csr_signature_algorithm_not_allowed",
    "unsupported_extension.pem": "csr_signature_algorithm_not_allowed",
    "unsupported_extension_critical.pem": "csr_signature_algorithm_not_allowed",
    "zero-element-attribute.pem": "csr_extension_malformed",
}


def vector(name: str) -> bytes:
    """A vector as its file has it."""
    return resources.files("cryptography_vectors").joinpath("x509", "requests", name).read_bytes()


def vector_der(name: str) -> bytes:
    """The request in a vector, whatever stands around it in its file."""
    content = vector(name)
    if name.endswith(".der"):
        return content
    inner = content.partition(b"-----BEGIN ")[2].partition(b"-----\n")[2].partition(b"-----END")[0]
    return base64.b64decode(inner)
