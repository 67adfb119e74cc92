"""The method table of the gRPC server: what is not in it does not exist, and nothing is in it without a rule.

A method is a path, an authorization rule and a handler, and the handler takes what the rule returns: it cannot be
called without. (No interceptor guards anything: a list of guarded names can be forgotten.) The rule sees metadata
alone; the request, bytes of at most 64 KiB, is received after it has spoken, so that nobody without a credential can
keep a thread waiting for one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_Granted = TypeVar("_Granted")


@dataclass(frozen=True, slots=True)
class Call:
    """One call as rules and handlers see it."""

    id: str
    peer: str
    received_at: float
    """Epoch seconds."""
    metadata: Sequence[tuple[str, str | bytes]]
    certificate: bytes = b""
    """The client's certificate in PEM, where the listener demands one; TLS has proven that the client has its key."""


class CallRefusedError(Exception):
    """The answer to a call that gets none: a status, a reason of an enumeration, a sentence without secrets."""

    def __init__(self, status: grpc.StatusCode, reason: str, sentence: str) -> None:
        super().__init__(f"{reason}: {sentence}")
        self.status = status
        self.reason = reason


class Received(Protocol):
    """The request of a call, for a handler that wants it."""

    caller: object
    """What the rule said."""

    def __call__(self) -> bytes:
        """Wait for the request. Raises CallRefusedError when the call ends without one."""
        ...

    def alive(self) -> bool:
        """Whether the caller still waits for an answer."""
        ...

    def send_away(self, refused: CallRefusedError) -> None:
        """End the call from another thread than its own, whatever that waits for."""
        ...


def uncounted(refused: CallRefusedError) -> None:
    """For a method whose refusals are counted nowhere."""


@dataclass(frozen=True, slots=True)
class Method(Generic[_Granted]):
    """A method with one request and one answer. Rule and handler raise CallRefusedError."""

    path: str
    rule: Callable[[Call], _Granted]
    """Who may call; what it returns, a verified caller say, is all that the handler gets to know about that."""
    handler: Callable[[Call, _Granted, Received], bytes]
    aside: bool = False
    """Whether threads of its own serve it, so that it can take none from the others."""
    count_busy: Callable[[CallRefusedError], None] = uncounted
    """Hears of calls for which there was no place; of the others, rule and handler know themselves."""

    def serve(self, call: Call, received: Received) -> bytes:
        """Ask the rule, then the handler."""
        granted = received.caller = self.rule(call)
        return self.handler(call, granted, received)


@dataclass(frozen=True, slots=True)
class StreamMethod(Generic[_Granted]):
    """A method with one request and answers until the caller leaves."""

    path: str
    rule: Callable[[Call], _Granted]
    handler: Callable[[Call, _Granted, Received], Iterator[bytes]]
    aside: bool = False
    count_busy: Callable[[CallRefusedError], None] = uncounted

    def serve(self, call: Call, received: Received) -> Iterator[bytes]:
        """Ask the rule, then the handler."""
        granted = received.caller = self.rule(call)
        return self.handler(call, granted, received)


def anyone(call: Call) -> None:
    """The rule of a method that says nothing about anybody."""
