"""PEM of our own making into DER, for faces that speak DER only."""

from __future__ import annotations

import binascii
import re
from typing import Final

from meshpki.errors import IntegrityError

CERTIFICATE: Final = "CERTIFICATE"
PRIVATE_KEY: Final = "PRIVATE KEY"
"""PKCS#8 without a password (RFC 5958, RFC 7468 section 10); its DER is the block's content as it stands."""
_BLOCK: Final = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----\s([A-Za-z0-9+/=\s]+)-----END \1-----")


def to_der(pem: bytes, label: str) -> bytes:
    """Give the content of every block, one after another. Raises IntegrityError unless all blocks have that label.

    Text between blocks is skipped (RFC 7468, section 2). The error never holds any of the content.
    """
    blocks = _BLOCK.findall(pem)
    if not blocks or len(blocks) != pem.count(b"-----BEGIN "):
        raise IntegrityError(f"what should be PEM of label {label} has no whole blocks", todo="report it")
    if any(found != label.encode("ascii") for found, _ in blocks):
        raise IntegrityError(f"PEM of another label than {label}", todo="report it")
    try:
        return b"".join(binascii.a2b_base64(content) for _, content in blocks)
    except binascii.Error:  # not chained: nothing of a key belongs into a traceback
        raise IntegrityError(f"a PEM block of label {label} holds no base64", todo="report it") from None
