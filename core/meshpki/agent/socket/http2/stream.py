"""What is known of one call, and what of it has come and is not read. Bytes in and out, and no frames."""

from __future__ import annotations

from meshpki.agent.socket.http2 import messages
from meshpki.agent.socket.http2.messages import MessageRefusedError, Refusal


class Stream:
    """A call that is not over."""

    __slots__ = ("_buffer", "_left", "_owed", "_wanted", "answered", "encoding", "ended")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._owed = 0
        """Bytes that have come, padding too, and are not acknowledged: at most a window."""
        self._wanted = False
        """Somebody waits for a message that is not all there."""
        self._left = -1
        """Bytes still to come of a message that is passed over; -1: how many is not known yet."""
        self.encoding = "identity"
        self.ended = False
        """The client has said its last message."""
        self.answered = False
        """Our headers have gone."""

    def add(self, data: bytes, length: int) -> None:
        """Bytes have come, for which the window became narrower by `length`."""
        self._buffer += data
        self._owed += length

    def take(self, most: int) -> bytes | None:
        """Take the next message, of at most so many bytes; None while it is not all there.

        Raises MessageRefusedError.
        """
        message = messages.take(self._buffer, most, self.encoding)
        self._wanted = message is None
        if message is None and self.ended and self._buffer:
            raise MessageRefusedError(Refusal.MALFORMED, "the call ends inside of a message")
        return message

    def awaited(self) -> int:
        """Give the length of the message that has begun, with its prefix; -1 while that is not known."""
        return messages.size_of(self._buffer)

    def skip(self) -> bool:
        """Pass over the next message, holding none of it; True when no more of it is to come."""
        if self._left < 0:
            self._left = messages.size_of(self._buffer)
        if self._left > 0:
            passed = min(self._left, len(self._buffer))
            del self._buffer[:passed]
            self._left -= passed
        return self._left == 0 or self.ended

    def due(self) -> int:
        """Say how many bytes are to be acknowledged, once: those that were read, or all for who waits for more."""
        read = self._owed if self._wanted else max(self._owed - len(self._buffer), 0)
        self._owed -= read
        return read

    def rest(self) -> int:
        """Say how many bytes are to be acknowledged of a call that is over."""
        return self._owed
