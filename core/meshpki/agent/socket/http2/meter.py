"""Looks at the frames of a client before anything keeps them: at their kinds and lengths, not at what is in them."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from h2.errors import ErrorCodes

if TYPE_CHECKING:
    from meshpki.agent.socket.http2.limits import Limits

PREFACE_BYTES: Final = 24
"""RFC 9113, section 3.4; what is in them is looked at by h2."""
HEAD_BYTES: Final = 9
FRAME_BYTES: Final = 16_384
"""Of a frame without its head: we never allowed more (RFC 9113, section 4.2). h2 says so too, but holds it first."""
FEW_BYTES: Final = 256
"""Of data: less is a message, which earns more than it costs, or a way to have us work for each byte."""
_ACK = _END_STREAM = 0x1


class Kind(IntEnum):
    """RFC 9113, section 6; there are others, which mean nothing to us."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class TooMuchError(Exception):
    """A client asks for more than it may: its connection ends with this code."""

    def __init__(self, words: str, code: ErrorCodes = ErrorCodes.ENHANCE_YOUR_CALM) -> None:
        super().__init__(words)
        self.code = code


class Budget:
    """Frames that cost more than they bring. Filled by time, and by what is done for the client."""

    __slots__ = ("_at", "_each_second", "_left", "_most")

    def __init__(self, limits: Limits, now: float) -> None:
        self._most = float(limits.burst)
        self._each_second = limits.each_second
        self._left = self._most
        self._at = now

    def spend(self, frames: int, now: float) -> None:
        """Take so many. Raises TooMuchError when there are not so many left."""
        self._left = min(self._left + (now - self._at) * self._each_second, self._most) - frames
        self._at = now
        if self._left < 0:
            raise TooMuchError("more frames that ask for nothing than are forgiven")

    def earn(self, frames: int) -> None:
        """A message went or came: its acknowledgements are no fault."""
        self._left = min(self._left + frames, self._most)


class Meter:
    """Follows the frames of one connection, however their bytes are cut."""

    __slots__ = ("_block", "_head", "_most", "_skip")

    def __init__(self, limits: Limits) -> None:
        self._most = limits.block
        self._skip = PREFACE_BYTES
        self._head = b""
        self._block = 0

    def look(self, data: memoryview) -> int:
        """Give the number of frames in these bytes that count against the budget. Raises TooMuchError."""
        spent = at = 0
        while at < len(data):
            if self._skip:
                step = min(self._skip, len(data) - at)
                self._skip -= step
                at += step
                continue
            missing = HEAD_BYTES - len(self._head)
            self._head += data[at : at + missing]
            at += missing
            if len(self._head) == HEAD_BYTES:
                spent += self._frame(int.from_bytes(self._head[:3]), self._head[3], self._head[4])
                self._head = b""
        return spent

    def _frame(self, length: int, kind: int, flags: int) -> int:
        self._skip = length
        if length > FRAME_BYTES:
            raise TooMuchError(f"a frame of more than {FRAME_BYTES} bytes", ErrorCodes.FRAME_SIZE_ERROR)
        match kind:
            case Kind.HEADERS | Kind.CONTINUATION:
                self._block = length + (self._block if kind == Kind.CONTINUATION else 0)
                if self._block > self._most:
                    raise TooMuchError(f"headers of more than {self._most} bytes")
                # A continuation takes a place in memory however short it is.
                return int(kind == Kind.CONTINUATION)
            case Kind.DATA:
                return int(length < FEW_BYTES and not flags & _END_STREAM)
            case Kind.SETTINGS | Kind.PING:
                return int(not flags & _ACK)
            case Kind.RST_STREAM:
                return 0  # only one that comes before any answer is, and that is not known here
            case _:
                return 1
