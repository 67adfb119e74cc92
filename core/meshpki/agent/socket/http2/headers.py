"""The headers of a call and of its answer, as gRPC over HTTP/2 has them (github.com/grpc/grpc, PROTOCOL-HTTP2.md)."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import quote

from hpack import HeaderTuple, NeverIndexedHeaderTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Headers: TypeAlias = "Sequence[tuple[bytes, bytes]]"
Metadata: TypeAlias = "tuple[tuple[str, str | bytes], ...]"

_TYPE: Final = re.compile(rb"application/grpc(?:[+;].*)?\Z")
_SPECIAL: Final = frozenset({b":method", b":scheme", b":path"})
_NAME: Final = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+\Z")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_OF_A_CONNECTION: Final = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"}
)
"""RFC 9113, sections 8.2 and 8.3."""
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_SECONDS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_NOT_METADATA: Final = re.compile(r":|grpc-|(?:te|content-type)\Z")
_PER_HEADER: Final = 32
"""RFC 9113, section 6.5.2."""
MAX_WORDS: Final = 2048
"""Of a status's sentence: it goes into one header."""


@dataclass(frozen=True, slots=True)
class Request:
    """A call: what is asked for, by whom, how long its client waits, and how its messages may be compressed."""

    path: str
    metadata: Metadata
    timeout: float | None
    encoding: str


class MalformedError(Exception):
    """Headers that HTTP/2 does not allow: a stream error (RFC 9113, section 8.1.1)."""


class NotGrpcError(Exception):
    """Something else than a gRPC call, for an HTTP status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class BadHeadersError(Exception):
    """A gRPC call with headers that cannot be meant or are too many; the words are for its client."""

    def __init__(self, words: str, *, too_large: bool = False) -> None:
        super().__init__(words)
        self.words = words
        self.too_large = too_large


def read_request(headers: Headers, most: int) -> Request:
    """Read the headers of a call, of at most so many bytes. Raises MalformedError, NotGrpcError and BadHeadersError."""
    special = _special(headers)
    if special[b":method"] != b"POST":
        raise NotGrpcError(405)
    regular = [(name, value.strip(b" \t")) for name, value in headers[len(special) :]]
    named = dict(regular)
    if not _TYPE.match(named.get(b"content-type", b"")):
        raise NotGrpcError(415)
    if (size := size_of(headers)) > most:
        raise BadHeadersError(f"the call's headers are too large ({size} vs. {most} bytes)", too_large=True)
    return Request(
        path=special[b":path"].decode("latin-1"),
        metadata=tuple(_metadata(regular)),
        timeout=_timeout(named.get(b"grpc-timeout")),
        encoding=named.get(b"grpc-encoding", b"identity").decode("latin-1"),
    )


def size_of(headers: Headers) -> int:
    """Give their bytes as RFC 9113 counts them, but those of `-bin` headers without their base64, as gRPC does."""
    return sum(
        len(name) + _PER_HEADER + (len(value) * 3 // 4 if name.endswith(b"-bin") else len(value))
        for name, value in headers
    )


def _special(headers: Headers) -> dict[bytes, bytes]:
    """Read the pseudo-headers, which come first, each once, and look whether the others may be headers at all."""
    count = next((at for at, (name, _) in enumerate(headers) if name[:1] != b":"), len(headers))
    special = dict(headers[:count])
    wanted = _SPECIAL <= special.keys() <= _SPECIAL | {b":authority"}
    if not wanted or len(special) != count or not special[b":path"]:
        raise MalformedError
    for name, value in headers:
        if not _NAME.match(name) or _CONTROL.search(value) or name in _OF_A_CONNECTION:
            raise MalformedError
        if name == b"te" and value != b"trailers":
            raise MalformedError
    if any(name[:1] == b":" for name, _ in headers[count:]):
        raise MalformedError
    return special


def _metadata(headers: Headers) -> Iterator[tuple[str, str | bytes]]:
    for raw, value in headers:
        name = raw.decode("latin-1")
        if _NOT_METADATA.match(name):
            continue
        if name.endswith("-bin"):
            yield from ((name, _bytes(name, part)) for part in value.split(b","))
        else:
            yield name, value.decode("latin-1")


def _bytes(name: str, value: bytes) -> bytes:
    """Base64 with or without its padding."""
    value = value.strip()
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error:
        raise BadHeadersError(f"the header {name} is not base64") from None


def _timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    found = _TIMEOUT.match(value)
    if found is None:
        raise BadHeadersError("the header grpc-timeout is no time")
    return int(found[1]) * _SECONDS[found[2]]


def _fixed(*headers: tuple[bytes, bytes]) -> tuple[HeaderTuple, ...]:
    """Never indexed: a table of them is memory for each connection, and saves a few bytes of a unix socket."""
    return tuple(NeverIndexedHeaderTuple(name, value) for name, value in headers)


OPENING: Final = _fixed(
    (b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,gzip")
)
"""Before the first message, or before the trailers when there is none."""


def trailers(status: int, words: str = "") -> tuple[HeaderTuple, ...]:
    """Give what ends a call: a gRPC status by its number, and its sentence, percent-encoded."""
    said = [(b"grpc-message", quote(words[:MAX_WORDS], safe=_PLAIN, errors="replace").encode())] if words else []
    return _fixed((b"grpc-status", b"%d" % status), *said)


def http_only(status: int) -> tuple[HeaderTuple, ...]:
    """Give the whole answer to what is not gRPC."""
    return _fixed((b":status", b"%d" % status), (b"content-length", b"0"))


_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if code != ord("%"))
