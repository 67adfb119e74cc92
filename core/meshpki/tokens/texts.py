"""How untrusted values and moments appear in messages: clipped, quoted, ASCII; RFC 3339 in UTC."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_CLIP: Final = 80
_SEVERAL: Final = 5
MAX_TIME: Final = 253_402_300_799
"""The last second of the year 9999, as far as RFC 3339 can write."""


def quoted(text: str) -> str:
    """Quote a string of unknown origin: ASCII escapes, at most 80 characters of it."""
    return ascii(text) if len(text) <= _CLIP else f"{text[:_CLIP]!a} (cut, {len(text)} characters)"


def listed(texts: Sequence[str]) -> str:
    """Quote the first few of several strings."""
    shown = ", ".join(quoted(text) for text in texts[:_SEVERAL])
    return shown if len(texts) <= _SEVERAL else f"{shown} and {len(texts) - _SEVERAL} more"


def moment(seconds: float) -> str:
    """Epoch seconds as RFC 3339 in UTC, whole seconds; clamped to what that format can write."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(min(max(seconds, 0), MAX_TIME)))
