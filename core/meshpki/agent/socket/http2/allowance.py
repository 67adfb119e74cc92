"""How much one client may have us hold of large messages that have begun and are not whole."""

from __future__ import annotations

from meshpki.agent.socket.http2.messages import MessageRefusedError, Refusal


class Allowance:
    """Of one client, whatever streams and connections it has: one that holds it back harms itself alone.

    What fits into a stream's window is not counted; it is bounded by the streams that there may be.
    """

    __slots__ = ("_left",)

    def __init__(self, most: int) -> None:
        self._left = most

    def take(self, size: int) -> None:
        """Have room for a message of so many bytes, until `give`. Raises MessageRefusedError."""
        if size > self._left:
            words = f"a message of {size} bytes, and {self._left} may be on their way now beside other large ones"
            raise MessageRefusedError(Refusal.TOO_LARGE, f"{words}; to do: send them one after the other")
        self._left -= size

    def give(self, size: int) -> None:
        """The message is whole, or it never will be."""
        self._left += size
