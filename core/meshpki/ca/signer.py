"""A signer whose key is in this process: loaded from a private file, proven against its certificate."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from meshpki.ca.keys import digest_for, spki_of
from meshpki.errors import IntegrityError, InvalidValueError
from meshpki.runtime import files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from meshpki.ca.keys import PrivateKey

MAX_KEY_BYTES: Final = 16 * 1024
MAX_CHAIN_BYTES: Final = 128 * 1024
_PKCS1: Final = padding.PKCS1v15()


class SoftwareSigner:
    """`hooks.Signer` over a private key in memory. Immutable, so any number of threads may sign at once."""

    __slots__ = ("_chain", "_sign")

    def __init__(self, chain: Sequence[x509.Certificate], key: PrivateKey) -> None:
        """Take the issuing certificate first, the root last. Raises IntegrityError when the key is another's."""
        if not chain:
            raise InvalidValueError("an empty certificate chain", wanted="the issuing certificate first, the root last")
        own = chain[0].public_key()
        if not isinstance(own, ec.EllipticCurvePublicKey | rsa.RSAPublicKey) or spki_of(own) != spki_of(
            key.public_key()
        ):
            raise IntegrityError(
                "a private key that does not belong to the issuing certificate",
                wanted="the two files of one authority",
                todo="put the pair that `meshpki ca init` made back in place",
            )
        self._chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in chain)
        self._sign = _signing(key)

    def __repr__(self) -> str:
        return f"SoftwareSigner({len(self._chain)} certificates)"

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path, root_path: Path | None = None) -> SoftwareSigner:
        """Open an authority from files: PEM certificates, and an unencrypted PEM key of mode 0600 that is ours.

        `certificate_path` holds the issuing certificate, and those above it in order; `root_path` a root to put at
        the end unless it stands there already. The root's key is neither needed nor looked for. Raises MachineError,
        InvalidValueError, IntegrityError.
        """
        chain = load_certificates(certificate_path)
        if root_path is not None:
            chain += [root for root in load_certificates(root_path) if root not in chain]
        return cls(chain, load_private_key(key_path))

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER certificates: the issuing one first, the root last."""
        return self._chain

    def sign(self, tbs: bytes) -> bytes:
        """Sign: ECDSA with the hash of the curve's size, or RSASSA-PKCS1-v1_5 with SHA-256."""
        return self._sign(tbs)


def _signing(key: PrivateKey) -> Callable[[bytes], bytes]:
    """Settle once how a key signs."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        scheme = ec.ECDSA(digest_for(key))
        return lambda tbs: key.sign(tbs, scheme)
    digest = digest_for(key)
    return lambda tbs: key.sign(tbs, _PKCS1, digest)


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Read every certificate of a PEM file, at least one. Raises MachineError, InvalidValueError."""
    data = files.read_capped(path, limit=MAX_CHAIN_BYTES)
    try:
        return x509.load_pem_x509_certificates(data)
    except (ValueError, x509.InvalidVersion) as error:
        raise InvalidValueError(f"{path} holds no certificates", wanted="certificates in PEM") from error


def load_private_key(path: Path) -> PrivateKey:
    """Read a private key of a kind we sign with. Raises MachineError, InvalidValueError; no text holds any of it."""
    data = files.read_private(path, limit=MAX_KEY_BYTES)
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, binascii.Error):
        raise InvalidValueError(f"{path} holds no readable key", wanted="an unencrypted private key in PEM") from None
    if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        return key
    raise InvalidValueError(f"{path} holds a key of another kind", wanted="an RSA or an elliptic curve key")
