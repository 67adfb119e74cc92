"""PEM out of files into secrets: certificates and nothing else as roots, and only a key that fits its certificate."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from meshpki.agent.rotation.certificates import load_certificates
from meshpki.agent.sds.resources import certificate_secret, roots_secret
from meshpki.errors import IntegrityError, InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.agent.sds.resources import Resource

_BEGIN: Final = b"-----BEGIN CERTIFICATE-----"


def certificate_from(name: str, chain_pem: bytes, key_pem: bytes) -> Resource:
    """Make a certificate's secret. Raises InvalidValueError for what is no PEM, and IntegrityError for a key that is
    another certificate's, as between the two writes of a program that replaces one file after the other.

    What goes out is written anew: text around the blocks, and blocks of another kind, stay here.
    """
    chain = _certificates(chain_pem)
    try:
        key = load_pem_private_key(key_pem, password=None)
        of_key = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        of_leaf = chain[0].public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        plain_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    except (ValueError, TypeError, UnsupportedAlgorithm):  # not chained: nothing of a key belongs into a traceback
        raise InvalidValueError("the key cannot be read", wanted="one private key as PEM, without a password") from None
    if of_key != of_leaf:
        raise IntegrityError("the key is not that of the first certificate", wanted="a pair that fits")
    plain_chain = _pem(chain)
    return certificate_secret(name, _version(plain_chain), plain_chain, plain_key)


def roots_from(name: str, roots_pem: bytes) -> Resource:
    """Make a secret of roots. Raises InvalidValueError for what is no PEM certificate."""
    plain = _pem(_certificates(roots_pem))
    return roots_secret(name, _version(plain), plain)


def _certificates(pem: bytes) -> Sequence[x509.Certificate]:
    try:
        found = load_certificates(pem)
    except ValueError:
        found = []
    if not found or len(found) != pem.count(_BEGIN):  # the library skips a last block that was cut short
        raise InvalidValueError("there is no certificate, or one is broken", wanted="certificates as PEM")
    return found


def _pem(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _version(pem: bytes) -> str:
    """Of the public part alone: a version is logged."""
    return hashlib.sha256(pem).hexdigest()[:16]
