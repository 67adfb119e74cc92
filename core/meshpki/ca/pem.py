"""PEM (RFC 7468): one way to write a block, and a reader that takes exactly that and nothing near it."""

from __future__ import annotations

import binascii
from typing import Final

_LINE: Final = 64
CERTIFICATE: Final = "CERTIFICATE"


def encode(der: bytes, label: str = CERTIFICATE) -> str:
    """Write one block: lines of exactly 64 characters (RFC 7468 section 2), a newline at the end."""
    text = binascii.b2a_base64(der, newline=False).decode("ascii")
    lines = [text[at : at + _LINE] for at in range(0, len(text), _LINE)]
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----\n"])


def decode_one(text: bytes, label: str) -> bytes:
    """Read the one block of that label; white space may surround it, nothing else. Raises ValueError.

    No header lines, no second block, no text beside it: two readers must not find two different requests.
    """
    text = text.strip()
    begin = b"-----BEGIN %b-----" % label.encode()
    end = b"-----END %b-----" % label.encode()
    if not (text.startswith(begin) and text.endswith(end) and len(text) > len(begin) + len(end)):
        raise ValueError(f"not one block from {begin.decode()} to {end.decode()}")
    body = text[len(begin) : -len(end)]
    if body[:1] not in b"\r\n" or body[-1:] not in b"\r\n":
        raise ValueError("the base64 does not stand on lines of its own")
    text = body.translate(None, b"\r\n")
    content = binascii.a2b_base64(text, strict_mode=True)  # binascii.Error is a ValueError.
    if binascii.b2a_base64(content, newline=False) != text:
        raise ValueError("the base64 is not in its one canonical form")
    return content
