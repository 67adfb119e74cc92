"""What the bytes of a client bring about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from meshpki.agent.socket.http2.headers import Request


@dataclass(frozen=True, slots=True)
class Greeted:
    """The client speaks HTTP/2: its preface and its settings are here."""


@dataclass(frozen=True, slots=True)
class CallBegun:
    """A call with good headers. Its path may be anybody's."""

    stream: int
    request: Request


@dataclass(frozen=True, slots=True)
class CallMoved:
    """There may be a message to read, or the client has said its last one."""

    stream: int


@dataclass(frozen=True, slots=True)
class CallDropped:
    """The client has reset the call, or broken its rules: nobody hears an answer any more."""

    stream: int


@dataclass(frozen=True, slots=True)
class RoomMade:
    """A window has become wider: who waits to send may try again."""


@dataclass(frozen=True, slots=True)
class Leaving:
    """The client is about to go: what it has asked is still answered (RFC 9113, section 6.8)."""


@dataclass(frozen=True, slots=True)
class Over:
    """The connection ends. What is to be sent still goes out."""

    why: str
    """In words of ours and of RFC 9113, section 7; empty when it is nobody's fault."""


Event: TypeAlias = Greeted | CallBegun | CallMoved | CallDropped | RoomMade | Leaving | Over
