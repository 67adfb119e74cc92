"""Serial numbers: 128 bits of randomness, positive, never zero."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

SERIAL_BYTES: Final = 16
"""As SPIRE's and istiod's; RFC 5280 section 4.1.2.2 allows up to 20 octets."""


def draw(random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> int:
    """Draw a serial number. `random_bytes(n)` returns n unpredictable octets; the operating system's by default."""
    while True:
        serial = int.from_bytes(random_bytes(SERIAL_BYTES), "big")
        if serial:
            return serial
