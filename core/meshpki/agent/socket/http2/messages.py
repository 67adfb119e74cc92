"""Messages out of the bytes of a stream, each with a byte that says whether it is compressed, and its length."""

from __future__ import annotations

import struct
import zlib
from enum import Enum
from typing import Final

PREFIX: Final = struct.Struct(">BI")
GZIP: Final = 16 + zlib.MAX_WBITS


class Refusal(Enum):
    """Why a message is not taken, by the name of its gRPC status."""

    TOO_LARGE = "RESOURCE_EXHAUSTED"
    MALFORMED = "INVALID_ARGUMENT"
    ENCODING = "UNIMPLEMENTED"
    BROKEN = "INTERNAL"


class MessageRefusedError(Exception):
    """A message is not taken; the words are for its client."""

    def __init__(self, why: Refusal, words: str) -> None:
        super().__init__(words)
        self.why = why
        self.words = words


def framed(message: bytes) -> bytes:
    """Give a message as it goes out: never compressed, for it never goes further than this machine."""
    return PREFIX.pack(0, len(message)) + message


def size_of(buffer: bytearray) -> int:
    """Give the length of the message that begins here, with its prefix; -1 while that is not known."""
    return PREFIX.size + int(PREFIX.unpack_from(buffer)[1]) if len(buffer) >= PREFIX.size else -1


def take(buffer: bytearray, most: int, encoding: str) -> bytes | None:
    """Take the next message off the front; None while it is not all there. Raises MessageRefusedError."""
    if len(buffer) < PREFIX.size:
        return None
    compressed, length = PREFIX.unpack_from(buffer)
    if compressed > 1:
        raise MessageRefusedError(Refusal.BROKEN, "a message's first byte is neither 0 nor 1")
    if length > most:
        raise MessageRefusedError(Refusal.TOO_LARGE, f"received message larger than max ({length} vs. {most})")
    if compressed and encoding != "gzip":
        raise MessageRefusedError(Refusal.ENCODING, "a message is compressed in a way that is not known here")
    end = PREFIX.size + length
    if len(buffer) < end:
        return None
    message = bytes(memoryview(buffer)[PREFIX.size : end])
    del buffer[:end]
    return _inflated(message, most) if compressed else message


def _inflated(message: bytes, most: int) -> bytes:
    """Uncompress no more than may be."""
    inflater = zlib.decompressobj(GZIP)
    try:
        found = inflater.decompress(message, most + 1)
    except zlib.error:
        raise MessageRefusedError(Refusal.BROKEN, "a compressed message is not gzip") from None
    if len(found) > most:
        raise MessageRefusedError(Refusal.TOO_LARGE, f"received message larger than max (more than {most} inflated)")
    if not inflater.eof:
        raise MessageRefusedError(Refusal.BROKEN, "a compressed message is cut short")
    return found
