"""The little of DER (X.690) that a certificate template needs: writing elements, and walking over them strictly."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Final

BOOLEAN_TRUE: Final = b"\x01\x01\xff"
INTEGER: Final = 0x02
BIT_STRING: Final = 0x03
OCTET_STRING: Final = 0x04
UTC_TIME: Final = 0x17
GENERALIZED_TIME: Final = 0x18
SEQUENCE: Final = 0x30

YEAR_2050: Final = 2_524_608_000
"""2050-01-01T00:00:00Z: from here on a certificate writes GeneralizedTime (RFC 5280 section 4.1.2.5)."""
YEAR_10000: Final = 253_402_300_800


def element(tag: int, content: bytes) -> bytes:
    """Write one element with a definite, shortest length."""
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    if size < 0x100:
        return bytes((tag, 0x81, size)) + content
    if size < 0x10000:
        return bytes((tag, 0x82, size >> 8, size & 0xFF)) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def integer(value: int) -> bytes:
    """Write a non-negative INTEGER."""
    return element(INTEGER, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def object_identifier(dotted: str) -> bytes:
    """Write an OBJECT IDENTIFIER given as `1.2.840...`."""
    first, second, *rest = (int(part) for part in dotted.split("."))
    content = bytearray()
    for number in (first * 40 + second, *rest):
        groups = [number & 0x7F]
        while number := number >> 7:
            groups.append(0x80 | (number & 0x7F))
        content += bytes(reversed(groups))
    return element(0x06, bytes(content))


def bit_string(content: bytes) -> bytes:
    """Write a BIT STRING of whole octets."""
    return element(BIT_STRING, b"\x00" + content)


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """Write an X.509 Extension; `value` is the DER inside its OCTET STRING. FALSE is the default, so not written."""
    mark = BOOLEAN_TRUE if critical else b""
    return element(SEQUENCE, object_identifier(oid) + mark + element(OCTET_STRING, value))


@lru_cache(maxsize=512)
def moment(epoch: int) -> bytes:
    """Write a Time: UTCTime through 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5).

    Cached: certificates issued within one second share both of theirs. `epoch` is seconds, from 1970 to 9999.
    """
    if not 0 <= epoch < YEAR_10000:
        raise ValueError(f"{epoch} is no time that a certificate can hold")
    if epoch < YEAR_2050:
        return element(UTC_TIME, time.strftime("%y%m%d%H%M%SZ", time.gmtime(epoch)).encode())
    return generalized_time(epoch)


@lru_cache(maxsize=512)
def generalized_time(epoch: int) -> bytes:
    """Write a GeneralizedTime to the second, in UTC. `epoch` is seconds, from 1970 to 9999."""
    if not 0 <= epoch < YEAR_10000:
        raise ValueError(f"{epoch} is no time that a certificate can hold")
    return element(GENERALIZED_TIME, time.strftime("%Y%m%d%H%M%SZ", time.gmtime(epoch)).encode())


def span(data: bytes, at: int) -> tuple[int, int, int]:
    """Find the element at offset `at`: offset of its content, offset after its end, and its tag octet.

    Raises ValueError for an indefinite, non-minimal or overlong length, and for a tag of several octets.
    """
    try:
        tag, size = data[at], data[at + 1]
    except IndexError:
        raise ValueError("an element is cut off") from None
    start = at + 2
    if tag & 0x1F == 0x1F:
        raise ValueError("a tag of several octets")
    if size >= 0x80:
        octets = size & 0x7F
        start += octets
        size = int.from_bytes(data[at + 2 : start], "big")
        if not 1 <= octets <= 3 or size < 0x80 or size >> (8 * (octets - 1)) == 0:
            raise ValueError("a length that is not in its shortest definite form")
    end = start + size
    if end > len(data):
        raise ValueError("an element is cut off")
    return start, end, tag


def children(data: bytes) -> list[bytes]:
    """Split the content of the one SEQUENCE in `data` into its elements, headers included. Raises ValueError."""
    at, end, tag = span(data, 0)
    if tag != SEQUENCE or end != len(data):
        raise ValueError("not exactly one SEQUENCE")
    parts = []
    while at < end:
        _, after, _ = span(data, at)
        parts.append(data[at:after])
        at = after
    return parts
