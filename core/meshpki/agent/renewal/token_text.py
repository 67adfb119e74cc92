"""A token's text, looked at for shape, expiry and subject. What it claims is trusted for nothing."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import Final

_COMPACT: Final = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


class NotATokenError(ValueError):
    """These bytes are no JWT. The text says why, and holds none of them."""


def expiry(token: bytes) -> int | None:
    """Give `exp` (epoch seconds) as the token states it; None where it states none. Raises NotATokenError."""
    stated = _claims(token).get("exp")
    return stated if isinstance(stated, int) and not isinstance(stated, bool) else None


def subject(token: bytes) -> str:
    """Give `sub` as the token states it; empty where it states none. Raises NotATokenError."""
    stated = _claims(token).get("sub")
    return stated if isinstance(stated, str) else ""


def _claims(token: bytes) -> dict[str, object]:
    if not _COMPACT.fullmatch(token):
        raise NotATokenError("not three base64url parts joined by dots")
    payload = token.split(b".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + b"=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        # Not chained: a JSON error carries the document, and the document is a token.
        raise NotATokenError("its second part is no JSON object")
    return claims
