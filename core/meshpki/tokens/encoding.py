"""Strict base64url and strict JSON: one text, one meaning, or nothing."""

from __future__ import annotations

import binascii
import json
import math
import re
from typing import Final, NoReturn

from meshpki.errors import InvalidValueError

MAX_TOKEN_BYTES: Final = 8192
"""A Kubernetes token has 900 to 1,300 bytes; the cap comes before any work on it."""
MAX_DEPTH: Final = 16
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_STRUCTURE: Final = re.compile(rb'\\.|["{}\[\]]', re.DOTALL)


class StrictJsonError(InvalidValueError):
    """A text that is no strict JSON object. Says what is wrong, never a part of the text."""


class DuplicateMemberError(StrictJsonError):
    """An object names one member twice: two readers could see two values (RFC 8259, section 4)."""


def decode_base64url(part: bytes) -> bytes | None:
    """Decode canonical, unpadded base64url (RFC 7515, section 2); None for anything else.

    Encoding is injective, so comparing the way back proves all at once: no padding, no foreign character, no line
    break, no left-over bits.
    """
    try:
        data = binascii.a2b_base64(part.translate(_TO_STANDARD) + b"==")
    except binascii.Error:
        return None
    if binascii.b2a_base64(data, newline=False).translate(_TO_URL).rstrip(b"=") != part:
        return None
    return data


def read_object(data: bytes) -> dict[str, object]:
    """Read one JSON object, UTF-8, of at most MAX_DEPTH levels, finite numbers, no member named twice at any depth.

    Raises StrictJsonError or DuplicateMemberError. They are raised outside the handlers on purpose: the errors of
    the decoders hold the whole text, and a chained exception would carry it along.
    """
    if not _shallow(data):
        raise StrictJsonError(f"JSON nested deeper than {MAX_DEPTH} levels")
    duplicate = False
    value: object = None
    try:
        value = _DECODER.decode(data.decode())
    except _DuplicateNameError:
        duplicate = True
    except (ValueError, RecursionError):
        pass
    if duplicate:
        raise DuplicateMemberError("a JSON object names a member twice", wanted="every name once")
    if not isinstance(value, dict):
        raise StrictJsonError("no JSON object in UTF-8", wanted="one JSON object (RFC 8259) with finite numbers")
    return value


def _shallow(data: bytes) -> bool:
    # Counting every bracket is an upper bound of the depth, and enough for any honest token.
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH:
        return True
    depth, inside = 0, False
    for match in _STRUCTURE.finditer(data):
        mark = match[0]
        if mark == b'"':
            inside = not inside
        elif inside:
            continue
        elif mark in {b"{", b"["}:
            depth += 1
            if depth > MAX_DEPTH:
                return False
        else:
            depth -= 1
    return True


class _DuplicateNameError(Exception):
    """Leaves the decoder; never this module."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise _DuplicateNameError
    return members


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number out of range")
    return number


def _constant(_name: str) -> NoReturn:
    raise ValueError("NaN or Infinity")


# Made once: `json.loads` with hooks would make one per call. With the C scanner the hook costs 1.5 us per token.
_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite, parse_constant=_constant)
