"""The least of an HTTP/2 client: a connection that says hello, pings, answers pings, and tells what it was told."""

from __future__ import annotations

import socket
import ssl
import struct
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
ACK = END_STREAM = 1
END_HEADERS = 4
INITIAL_WINDOW_SIZE = 4
ENHANCE_YOUR_CALM = 11
"""RFC 9113, section 7."""


def frame(kind: int, flags: int = 0, payload: bytes = b"", stream: int = 0) -> bytes:
    """A frame of a stream, or of the connection itself (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers_of(path: str) -> bytes:
    """The headers of a gRPC call, none of them compressed but method and scheme (RFC 7541, appendix A)."""

    def literal(name: bytes, value: bytes) -> bytes:
        return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value

    named = {b":path": path.encode(), b":authority": b"x", b"content-type": b"application/grpc", b"te": b"trailers"}
    return b"\x83\x87" + b"".join(literal(name, value) for name, value in named.items())


@dataclass
class GoAway:
    """Why the server ends the connection."""

    code: int
    reason: bytes


@dataclass
class Http2Connection:
    """Over TLS with ALPN h2, from construction on; OSError when the server does not say hello. For one thread."""

    address: str
    roots_pem: bytes
    server_name: str
    window: int = 65_535
    """So many bytes of each answer may come."""
    answered: int = 0
    """Pings of ours that the server answered."""
    goaway: GoAway | None = None
    ended: bool = False
    _greeted: bool = False
    _buffer: bytearray = field(default_factory=bytearray, repr=False)

    def __post_init__(self) -> None:
        host, _, port = self.address.rpartition(":")
        context = ssl.create_default_context(cadata=self.roots_pem.decode())
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((host, int(port)), timeout=60)
        self._socket = context.wrap_socket(plain, server_hostname=self.server_name)
        assert self._socket.selected_alpn_protocol() == "h2"
        settings = struct.pack(">HI", INITIAL_WINDOW_SIZE, self.window)
        self._socket.sendall(PREFACE + frame(SETTINGS, payload=settings))
        while not self._greeted:
            self._receive(60)
            if self.ended:
                raise ConnectionResetError("the server took no connection")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def ping(self) -> None:
        """Send one. Nothing happens when the server has ended the connection."""
        self._send(frame(PING, payload=bytes(8)))

    def call(self, path: str, stream: int) -> None:
        """Begin a call with an empty request; `stream` is the next odd number."""
        begun = frame(HEADERS, END_HEADERS, headers_of(path), stream)
        self._socket.sendall(begun + frame(DATA, END_STREAM, bytes(5), stream))

    def listen(self, seconds: float) -> None:
        """Read what comes for so long, and answer it; less long when the connection ends or is told to."""
        deadline = time.monotonic() + seconds
        while not self.ended and self.goaway is None and (left := deadline - time.monotonic()) > 0:
            self._receive(left)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def _send(self, data: bytes) -> None:
        try:
            self._socket.sendall(data)
        except OSError:
            self.ended = True

    def _receive(self, seconds: float) -> None:
        self._socket.settimeout(seconds)
        try:
            received = self._socket.recv(65536)
        except TimeoutError:
            return
        except OSError:
            received = b""
        self.ended = not received
        self._buffer += received
        while self._next_frame():
            pass

    def _next_frame(self) -> bool:
        if len(self._buffer) < 9:
            return False
        length = int.from_bytes(self._buffer[:3])
        if len(self._buffer) < 9 + length:
            return False
        kind, flags = self._buffer[3], self._buffer[4]
        payload = bytes(self._buffer[9 : 9 + length])
        del self._buffer[: 9 + length]
        match kind, flags & ACK:
            case 4, 0:
                self._greeted = True
                self._send(frame(SETTINGS, ACK))
            case 6, 0:
                self._send(frame(PING, ACK, payload))
            case 6, 1:
                self.answered += 1
            case 7, _:
                self.goaway = GoAway(int.from_bytes(payload[4:8]), payload[8:])
        return True
