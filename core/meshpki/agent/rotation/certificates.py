"""PEM certificates, read so that whatever cannot be read is one kind of error."""

from __future__ import annotations

from cryptography import x509


def load_certificates(pem: bytes) -> list[x509.Certificate]:
    """Read every certificate. Raises ValueError; the library has an error of another kind for an unknown version."""
    try:
        return x509.load_pem_x509_certificates(pem)
    except x509.InvalidVersion as error:
        raise ValueError("a certificate of no known version") from error
