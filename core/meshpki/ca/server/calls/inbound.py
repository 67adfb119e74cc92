"""One call from its first byte to its end: judged, waited for, served; and whoever holds it at a time ends it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from meshpki.ca.server.calls.endings import ending
from meshpki.ca.server.calls.grpc_core import CoreStream, message_of, was_cancelled
from meshpki.ca.server.calls.methods import BatchMethod, Method, StreamMethod
from meshpki.ca.server.calls.stream import Stream
from meshpki.ca.server.calls.waiting_room import CALLER_LEFT, REQUEST_MISSING, without_request
from meshpki.errors import WouldWaitError

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.server.calls.grpc_core import CoreCall, Event
    from meshpki.ca.server.calls.lanes import Lane
    from meshpki.ca.server.calls.method_table import Row
    from meshpki.ca.server.calls.methods import Call, CallRefusedError, Job, Work


class Desk(Protocol):
    """Where a call goes for what is done for several at once, and when it has ended."""

    def gather(self, inbound: InboundCall, job: Job, work: Work) -> None:
        """Have it worked on with others of the same moment. For the queue's thread."""

    def hand_over(self, inbound: InboundCall, job: Job, work: Work) -> None:
        """Have it worked on with the next batch. For any other thread."""

    def ended(self, inbound: InboundCall) -> None:
        """Nothing of it is left in gRPC."""


class InboundCall:
    """A call that has a place, from `begin` on. In one thread at a time, but for `send_away`.

    Rule and handler are asked in the queue's thread, and where they would have to wait, again in a worker's.
    """

    __slots__ = ("_core", "_desk", "_lane", "_method", "call", "caller", "noted", "sent_away", "since")

    def __init__(self, call: Call, core: CoreCall, row: Row, desk: Desk) -> None:
        self.call = call
        self.caller: object = None
        """What the rule said."""
        self.since = 0.0
        self.noted = False
        self.sent_away: CallRefusedError | None = None
        self._core = core
        self._method = row.method
        self._lane = row.lane
        self._desk = desk

    def begin(self) -> bool:
        """Take a place, and ask who calls. True where he may, and that is said at once: then `expect` has to follow."""
        self._lane.places.take(self)
        return self._judge(at_once=True)

    @property
    def batched(self) -> bool:
        """Whether its request is to be worked on with others."""
        return isinstance(self._method, BatchMethod)

    def makes_place_in(self, lane: Lane) -> bool:
        """Whether it leaves its place there as soon as its request is here."""
        return self._lane is lane and isinstance(self._method, Method)

    def expect(self, since: float | None = None) -> bool:
        """Have its request come. `since` and the answer: see `WaitingRoom.enter`."""
        try:
            at_risk = self._lane.room.enter(self, since)
            self._core.receive(self._received)
        except BaseException as error:  # noqa: BLE001  # every one becomes a status
            self.fail(error)
            return False
        return at_risk

    def waits(self) -> bool:
        """Whether its request has not come yet, and is waited for."""
        return self._lane.room.holds(self)

    def turn_away(self, refused: CallRefusedError) -> None:
        """End it: there is no place."""
        self._core.end(refused.status, str(refused), self._ended)

    def answer(self, message: bytes) -> None:
        """End it with a message."""
        self._lane.places.leave(self)
        self._core.answer(message, self._ended)

    def fail(self, error: BaseException) -> None:
        """End it with the status that an error has; of the error nothing is left."""
        self._lane.room.leave(self)
        self._lane.places.leave(self)
        self._core.end(*ending(self.call, error), self._ended)

    def send_away(self, refused: CallRefusedError) -> None:
        """End it while it waits for its request, which does not come any more then. From any thread."""
        self.sent_away = refused
        self._core.cancel(refused.status, str(refused))

    def _judge(self, *, at_once: bool) -> bool:
        try:
            self.caller = self._method.rule(self.call, at_once=at_once)
        except BaseException as error:  # noqa: BLE001  # every one becomes a status
            if at_once and isinstance(error, WouldWaitError):
                self._wait_in_a_thread(self._judge_in_a_thread)
            else:
                self.fail(error)
            return False
        return True

    def _judge_in_a_thread(self) -> None:
        if self._judge(at_once=False):
            self.expect()

    def _received(self, event: Event) -> None:
        room, request = self._lane.room, message_of(event)
        room.leave(self)
        if request is not None and self.sent_away is None:
            self._serve(request, at_once=True)
            return
        room.unanswered(self)
        self._lane.places.leave(self)
        refused = self.sent_away or without_request(REQUEST_MISSING)
        self._core.end(refused.status, str(refused), self._ended_without_request)

    def _serve(self, request: bytes, *, at_once: bool) -> None:
        method = self._method
        try:
            if isinstance(method, BatchMethod):
                job = method.prepare(self.call, self.caller, request, at_once)
                (self._desk.gather if at_once else self._desk.hand_over)(self, job, method.work)
            elif isinstance(method, StreamMethod):
                self._open(method, request)
            else:
                self.answer(method.handler(self.call, self.caller, request))
        except BaseException as error:  # noqa: BLE001  # every one becomes a status
            if at_once and isinstance(error, WouldWaitError):
                self._wait_in_a_thread(lambda: self._serve(request, at_once=False))
            else:
                self.fail(error)

    def _open(self, method: StreamMethod[Any], request: bytes) -> None:  # Any: see AnyMethod
        stream = Stream(CoreStream(self._core), self._stream_ended)
        try:
            method.handler(self.call, self.caller, request, stream)
        except BaseException as error:  # noqa: BLE001  # every one becomes a status
            stream.finish(*ending(self.call, error))

    def _wait_in_a_thread(self, task: Callable[[], object]) -> None:
        try:
            self._lane.workers.submit(task)
        except BaseException as error:  # noqa: BLE001  # every one becomes a status
            self.fail(error)

    def _stream_ended(self) -> None:
        self._lane.places.leave(self)
        self._desk.ended(self)

    def _ended(self, event: Event) -> None:  # noqa: ARG002  # a tag's form
        self._desk.ended(self)

    def _ended_without_request(self, event: Event) -> None:
        refused = self.sent_away or without_request(CALLER_LEFT if was_cancelled(event) else REQUEST_MISSING)
        self._desk.ended(self)  # first, whatever becomes of the rest
        self._method.left(self.call, self.caller, refused)
