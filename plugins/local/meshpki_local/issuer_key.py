"""The issuer's key on disk: made once, private, with its public half beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from meshpki.errors import IntegrityError
from meshpki.runtime.files import PUBLIC_FILE, private_directory, read_capped, read_private, write_atomically
from meshpki_local.issuer import KEY_BITS, IssuerKey

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki_local.layout import Layout

_LIMIT: Final = 16 << 10


def create(layout: Layout) -> None:
    """Make the key unless there is one, then write its public half: killed anywhere, the next call ends the same."""
    private_directory(layout.tokens)
    if not layout.token_key.exists():
        private = rsa.generate_private_key(public_exponent=65537, key_size=KEY_BITS)
        pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        write_atomically(layout.token_key, pem)
    write_atomically(layout.jwks, load(layout.token_key).jwks(), mode=PUBLIC_FILE)


def load(path: Path) -> IssuerKey:
    """Read the key. Raises MachineError when it is not private, IntegrityError when it is no RSA key."""
    content = read_private(path, limit=_LIMIT)
    try:
        private = load_pem_private_key(content, password=None)
    except (ValueError, TypeError) as error:
        # The cause is left out: it may quote the file.
        raise _not_a_key(path) from error.__class__()
    if not isinstance(private, rsa.RSAPrivateKey):
        raise _not_a_key(path)
    return IssuerKey.of(private)


def is_complete(layout: Layout) -> bool:
    """Whether the public half on disk is this key's. Raises as `load` does."""
    key = load(layout.token_key)
    return layout.jwks.exists() and read_capped(layout.jwks, limit=_LIMIT) == key.jwks()


def _not_a_key(path: Path) -> IntegrityError:
    return IntegrityError(
        f"{path} is no RSA key in PEM",
        wanted="the key that provision made",
        todo="restore it, or deprovision and provision again: all tokens are then issued anew",
    )
