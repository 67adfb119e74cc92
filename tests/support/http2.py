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
SETTINGS, PING, GOAWAY = 4, 6, 7
ACK = 1
ENHANCE_YOUR_CALM = 11
"""RFC 9113, section 7."""


def frame(kind: int, flags: int = 0, payload: bytes = b"") -> bytes:
    """A frame of the connection itself, stream 0 (RFC 9113, section 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + bytes(4) + payload


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
        self._socket.sendall(PREFACE + frame(SETTINGS))
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
        try:
            self._socket.sendall(frame(PING, payload=bytes(8)))
        except OSError:
            self.ended = True

    def listen(self, seconds: float) -> None:
        """Read what comes for so long, and answer it; less long when the connection ends or is told to."""
        deadline = time.monotonic() + seconds
        while not self.ended and self.goaway is None and (left := deadline - time.monotonic()) > 0:
            self._receive(left)

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

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
                self._socket.sendall(frame(SETTINGS, ACK))
            case 6, 0:
                self._socket.sendall(frame(PING, ACK, payload))
            case 6, 1:
                self.answered += 1
            case 7, _:
                self.goaway = GoAway(int.from_bytes(payload[4:8]), payload[8:])
        return True
