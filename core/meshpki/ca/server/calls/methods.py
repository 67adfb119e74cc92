"""The methods of the gRPC server: what is in no table does not exist, and nothing is in one without a rule.

A method is a path, an authorization rule and a handler, and the handler takes what the rule returns: it cannot be
called without. (No interceptor guards anything: a list of guarded names can be forgotten.) The rule sees metadata
alone; the request, bytes of at most 64 KiB, is received after it has spoken, so that nobody without a credential can
keep a place waiting for one.

All of them are called in the one thread that takes the calls, and so may wait for nobody there, neither for a disk nor
for another machine. What would have to says so by WouldWaitError, and is called once more in a thread that may wait.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

import grpc

from meshpki.value import value

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.ca.server.calls.stream import Stream

    Work: TypeAlias = Callable[[Sequence[Any]], object]  # Any: jobs as `prepare` makes them; also of other methods

_Granted = TypeVar("_Granted")
_Granted_co = TypeVar("_Granted_co", covariant=True)


@value
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


class Rule(Protocol[_Granted_co]):
    """Who may call; what it returns, a verified caller say, is all that the handler gets to know about that."""

    def __call__(self, call: Call, *, at_once: bool) -> _Granted_co:
        """Judge by the metadata. Raises CallRefusedError, and WouldWaitError when it has to be `at_once`."""


class Job(Protocol):
    """What is made of one request, for several to be worked on together, and what has become of it."""

    answer: bytes
    error: BaseException | None


def unheard(call: Call, granted: object, refused: CallRefusedError) -> None:
    """For a method to which calls without a request are nothing."""


def uncounted(refused: CallRefusedError) -> None:
    """For a method whose refusals are counted nowhere."""


@dataclass(frozen=True, slots=True)
class _Listed(Generic[_Granted]):
    """What every method has."""

    path: str
    rule: Rule[_Granted]
    aside: bool = field(default=False, kw_only=True)
    """Whether its calls have places of their own, so that they can take none from the others."""
    left: Callable[[Call, _Granted, CallRefusedError], object] = field(default=unheard, kw_only=True)
    """Hears of calls that had no request, and how they ended."""
    count_busy: Callable[[CallRefusedError], object] = field(default=uncounted, kw_only=True)
    """Hears of calls for which there was no place; of the others, rule and handler know themselves."""


@dataclass(frozen=True, slots=True)
class Method(_Listed[_Granted]):
    """One request, one answer, which nobody has to be waited for."""

    handler: Callable[[Call, _Granted, bytes], bytes]
    """Answers the request. Raises CallRefusedError."""


@dataclass(frozen=True, slots=True)
class BatchMethod(_Listed[_Granted]):
    """One request, one answer, and all requests of a moment are worked on together, in a thread that may wait."""

    prepare: Callable[[Call, _Granted, bytes, bool], Job]
    """Makes the work of the request. Raises CallRefusedError, and WouldWaitError where the last argument, at_once."""
    work: Work
    """Does it for all. What it raises, and does not keep with one job, fails all of them."""


@dataclass(frozen=True, slots=True)
class StreamMethod(_Listed[_Granted]):
    """One request, and answers until either side ends the call."""

    handler: Callable[[Call, _Granted, bytes, Stream], object]
    """Sends what there is, keeps the stream, and sends more from any thread. Raises CallRefusedError."""


# Any: each method's grant was typed where it was made.
AnyMethod: TypeAlias = Method[Any] | BatchMethod[Any] | StreamMethod[Any]


def anyone(call: Call, *, at_once: bool) -> None:
    """The rule of a method that says nothing about anybody."""
