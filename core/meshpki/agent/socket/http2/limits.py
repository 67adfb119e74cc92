"""What a client may take of us, before anybody knows who it is and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

STREAM_WINDOW: Final = 65_535
"""Bytes of a stream that nobody has read, as HTTP/2 has it by itself (RFC 9113, 6.9.2)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds."""

    message: int
    """Of one message, compressed or not."""
    headers: int
    """Of a call's headers, as RFC 9113 counts them: 32 more for each."""
    block: int = 64 * 1024
    """Of a call's headers as they come. Between the two the call is refused, beyond this the connection."""
    unread: int = 4 * STREAM_WINDOW
    """Of all streams of a connection together: four that nobody reads hold up the others."""
    large: int = 4 * 1024 * 1024
    """Of all messages of one client together that are longer than a window, have begun and are not whole yet."""
    streams: int = 1000
    """Open at one time on a connection."""
    greeting: float = 10.0
    """Until a client has said its preface and settings."""
    idle: float = 120.0
    """Without a call; each connection takes an open file."""
    burst: int = 5000
    """Frames that cost more than they bring: pings, settings, windows, short data, calls reset before any answer. Five
    for each stream: gRPC's clients say a window or two for each at once, and reset all at once.
    """
    each_second: float = 50.0
    """So many of them are forgiven."""
