"""One thread that takes all that happens on the ports of a server, and a second one that does the work of a moment.

The first waits for nobody: it judges calls, takes their requests, and answers what can be answered at once. Calls are
judged, and requests worked on, several in a row, for the first of a row finds nothing of what it needs in the
processor's caches. Requests that are worked on together are the second thread's (ADR 0023, 0024).
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
from collections import defaultdict, deque
from functools import partial
from typing import TYPE_CHECKING, Final, ParamSpec, TypeAlias, TypeVar

import grpc

from meshpki.ca.server.calls.batches import Batches
from meshpki.ca.server.calls.endings import forget
from meshpki.ca.server.calls.gathering import Gathering
from meshpki.ca.server.calls.grpc_core import CompletionQueue
from meshpki.ca.server.calls.hearing import Hearing
from meshpki.ca.server.calls.inbound import InboundCall
from meshpki.ca.server.calls.listener import Listener
from meshpki.ca.server.calls.methods import Call
from meshpki.ca.server.calls.waiting_room import WaitingRoom

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshpki.ca.server.calls.grpc_core import CoreCall, Event, Metadata
    from meshpki.ca.server.calls.listener import Door
    from meshpki.ca.server.calls.method_table import MethodTable, Row
    from meshpki.ca.server.calls.methods import Job, Work
    from meshpki.ca.server.calls.sent_away import SentAway

    Gathered: TypeAlias = tuple[InboundCall, Job, Work]

_LOG = logging.getLogger(__name__)
_P = ParamSpec("_P")
_T = TypeVar("_T")
CALLS_SECONDS: Final = 0.003
REQUESTS_SECONDS: Final = 0.001
"""How long the first of a row waits for the others: as a call to be judged, and then with its request."""
MOST_IN_A_ROW: Final = 16
"""So many calls wait to be judged at most: they hold no places, and strangers may be among them. Nor do more than a
quarter of the places there are: the granted of a row take theirs before anybody can be sent away for them."""
IDLE_SECONDS: Final = 0.05
"""Between two looks at whether all has ended."""
HEAR_SECONDS: Final = 0.1
"""While calls wait for their requests, all that came is heard so often, and what came later is not late yet."""
UNHEARD_SECONDS: Final = 2.0
"""So much, and no more, who waits may gain by what a flood, or a machine that is too busy, keeps unheard."""
_BEGINS: Final = "the beginning of a call met an error of ours"
_ENDS: Final = "the end of a call met an error of ours"
DRAIN_SECONDS: Final = 10.0
CANCELLED_SECONDS: Final = 2.0
"""How long calls that were cancelled may take to end."""


class Reception:
    """Serves tables on ports. They are bound by `listen`; calls are taken from `start` to `stop`."""

    def __init__(self, sent_away: SentAway) -> None:
        """`sent_away` hears of calls for which there was no place."""
        self._queue = CompletionQueue()
        self._listeners: list[Listener] = []
        self._sent_away = sent_away
        self._prefix = os.urandom(4).hex()
        self._numbers = itertools.count(1)
        self._live: set[object] = set()
        self._calls: Gathering[tuple[InboundCall, Row]] = Gathering(CALLS_SECONDS, MOST_IN_A_ROW)
        self._hearing = Hearing()
        self._paused: list[Listener] = []
        self._requests: Gathering[Gathered] = Gathering(REQUESTS_SECONDS)
        self._batches = Batches(self._work)
        self._thread = threading.Thread(target=self._run, name="reception", daemon=True)
        self._closing = False
        self._rooms: tuple[WaitingRoom, ...] = ()
        self._heard_at = time.monotonic()

    def listen(self, door: Door, table: MethodTable) -> str:
        """Bind a port for a table, and return the address with the port that it got. Raises MachineError."""
        listener = Listener(door, table, self._queue, partial(self._take, table), self._next)
        self._listeners.append(listener)
        self._calls.most = max(1, min(self._calls.most, *(lane.places.most // 4 for lane in table.lanes)))
        for lane in table.lanes:
            lane.room.heard = self.heard
            self._rooms += (lane.room,)
        return listener.address

    def start(self) -> None:
        """Take calls from now on. Once."""
        self._batches.start()
        for listener in self._listeners:
            listener.start()
        self._thread.start()

    def failures(self) -> tuple[str, ...]:
        """Why no call is taken any more though nobody has stopped us; nothing when all is well."""
        return () if self._closing or self._thread.is_alive() else ("calls: the thread that takes them has ended",)

    def stop(self) -> None:
        """Take no new calls, and return when those under way have ended, which they must within DRAIN_SECONDS.

        If it was never started, there are none: the ports are let go.
        What waits for somebody for longer is left to itself: the threads keep nobody from ending the process.
        """
        self._closing = True  # first: the last thing that happens may have happened when a listener's `stop` returns
        for listener in self._listeners:
            listener.stop()
        if self._thread.ident is None:  # it hears when the ports are closed, and ends
            self._thread.start()
        self._thread.join(DRAIN_SECONDS)
        if self._thread.is_alive():
            for listener in self._listeners:
                listener.cancel()
            self._thread.join(CANCELLED_SECONDS)
        if self._thread.is_alive():
            _LOG.warning("calls are left under way", extra={"calls": len(self._live)})

    def _next(self, listener: Listener) -> None:
        """Have it take another call beside the one that it has: now, or when those that wait have been judged."""
        if self._calls.nearly_full():
            self._paused.append(listener)
        else:
            listener.accept()

    def _go_on(self) -> None:
        paused, self._paused = self._paused, []
        for listener in paused:
            listener.accept()

    def _take(self, table: MethodTable, core: CoreCall, path: str, metadata: Metadata) -> None:
        """Have a call judged with others of the same moment, or say why not. In the queue's thread."""
        row = table.rows.get(path)
        if row is None:
            self._turn_away(core, grpc.StatusCode.UNIMPLEMENTED, f"no method {path[:200]} here")
            return
        call = Call(
            id=f"{self._prefix}-{next(self._numbers)}",
            peer=core.peer(),
            received_at=time.time(),
            metadata=metadata,
            certificate=core.certificate() if table.with_certificate else b"",
        )
        inbound = InboundCall(call, core, row, self)
        self._live.add(inbound)
        self._calls.add((inbound, row), time.monotonic())

    def _judge(self, calls: list[tuple[InboundCall, Row]]) -> None:
        """All of them, and then take the requests of those who may; or as many as there are places, if those come back
        as soon as their requests are heard.

        Of the row nothing is left in this frame: whoever keeps a frame of Python keeps those that called it, so that a
        cycle which an error leaves behind one call would keep all of the row until it is found.
        """
        waiting, granted = deque(calls), deque[InboundCall]()
        calls.clear()
        self._calls.wanted = len(waiting)
        self._go_on()
        while waiting and not _gets_a_place_after(granted, waiting[0][1]):
            self._admit_to(granted, *waiting.popleft())
        self._calls.put_back(waiting)
        crowded = bool(waiting)
        waiting.clear()
        self._requests.wanted = sum(inbound.batched for inbound in granted)
        now = time.monotonic()
        while granted:
            _expect(granted.popleft(), now, self._hearing, crowded=crowded)

    def _admit_to(self, granted: deque[InboundCall], inbound: InboundCall, row: Row) -> None:
        if _outlived(inbound, _BEGINS, self._admit, inbound, row):
            granted.append(inbound)

    def _admit(self, inbound: InboundCall, row: Row) -> bool:
        """Give it a place, if there is one, and ask who calls; whether its request is to be taken now."""
        if not row.lane.places.full():
            return inbound.begin()
        try:
            self._sent_away.count(row.busy.reason)
            row.method.count_busy(row.busy)
        finally:  # or nobody would ever end it
            inbound.turn_away(row.busy)
        return False

    def heard(self, now: float) -> float:
        """Up to when all that came was heard. Safe for threads."""
        return max(min(now, self._heard_at), now - UNHEARD_SECONDS)

    # --- what calls want of their desk

    def gather(self, inbound: InboundCall, job: Job, work: Work) -> None:
        """See `Desk`."""
        self._requests.add((inbound, job, work), time.monotonic())

    def hand_over(self, inbound: InboundCall, job: Job, work: Work) -> None:
        """See `Desk`."""
        self._batches.put((inbound, job, work))

    def ended(self, inbound: InboundCall) -> None:
        """See `Desk`."""
        self._live.discard(inbound)

    # --- the two threads

    def _run(self) -> None:
        while not self._closing or self._live or not all(each.ended for each in self._listeners):
            asked = time.monotonic()
            event = self._queue.next(self._patience(asked))
            if event is not None:
                _hear(event)
            else:
                self._heard_at = asked
            now = time.monotonic()
            heard = self._hearing.over(nothing_more=event is None)
            if heard and self._calls.due(now, nothing_more=event is None):
                self._judge(self._calls.take())
            if self._requests.due(now, nothing_more=event is None):
                self._batches.put(*self._requests.take())
            del event  # it holds a call
        self._batches.stop()
        for listener in self._listeners:
            listener.table.stop()

    def _patience(self, now: float) -> float | None:
        """How long to wait for what happens next."""
        most = IDLE_SECONDS if self._closing else None
        if self._somebody_waits():
            until_heard = max(0.0, self._heard_at + HEAR_SECONDS - now)
            most = until_heard if most is None else min(most, until_heard)
        heard = self._hearing.patience()
        for patience in (self._calls.patience(now) if heard is None else heard, self._requests.patience(now)):
            if patience is not None and (most is None or patience < most):
                most = patience
        return most

    def _somebody_waits(self) -> bool:
        return any(map(WaitingRoom.count, self._rooms))

    def _work(self, batch: list[Gathered]) -> None:
        together: defaultdict[Work, list[tuple[InboundCall, Job]]] = defaultdict(list)
        for inbound, job, work in batch:
            together[work].append((inbound, job))
        for work, each in together.items():
            _do(work, each)

    def _turn_away(self, core: CoreCall, status: grpc.StatusCode, text: str) -> None:
        self._live.add(core)
        core.end(status, text, lambda _: self._live.discard(core))


def _hear(event: Event) -> None:
    try:
        event.tag(event)
    except BaseException:  # noqa: BLE001  # the thread has to outlive every failure
        _LOG.exception("what happened to a call met an error of ours")


def _gets_a_place_after(granted: Iterable[InboundCall], row: Row) -> bool:
    """Whether there is none now, and will be one when those have been heard."""
    return row.lane.places.full() and any(each.makes_place_in(row.lane) for each in granted)


def _expect(inbound: InboundCall, since: float, hearing: Hearing, *, crowded: bool) -> None:
    if _outlived(inbound, _BEGINS, inbound.expect, since) or crowded:
        hearing.add(inbound)


def _outlived(
    inbound: InboundCall, words: str, step: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs
) -> _T | None:
    """Take a step with a call; the others of its row, and the thread, live on whatever becomes of it."""
    try:
        return step(*args, **kwargs)
    except BaseException:  # noqa: BLE001  # see above
        _LOG.exception(words, extra={"call": inbound.call.id})
        return None


def _do(work: Work, each: list[tuple[InboundCall, Job]]) -> None:
    broken: BaseException | None = None
    try:
        work([job for _, job in each])
    except BaseException as error:  # noqa: BLE001  # every one becomes a status
        broken = error
    for inbound, job in each:
        _outlived(inbound, _ENDS, _end, inbound, job, broken)


def _end(inbound: InboundCall, job: Job, broken: BaseException | None) -> None:
    failure = broken or job.error
    if failure is None:
        inbound.answer(job.answer)
    else:
        inbound.fail(failure)
        if job.error is not None:
            forget(job.error)  # one of its own that nobody heard of, in a batch that broke: it holds all of the batch
