"""Work that is done for several callers at once: whoever comes first does it for all who came meanwhile.

Why: one sync of the disk serves all, and each step of the work finds its code and data in the processor's caches when
it is done for many in a row (ADR 0015). There is no thread beside the callers' own: a call that is alone is handed to
nobody and waits for nobody.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Item = TypeVar("_Item")
GATHER_SECONDS: Final = 0.003
GATHER_FROM: Final = 3
"""Those who were just answered often ask again at once, and a batch that starts without them is small. So the next
leader waits for as many as there were, answered or waiting, when the last batch ended; if they come, that takes about a
millisecond, and it never takes longer than this. When they were fewer than three, nobody waits."""


class BatchFailedError(Exception):
    """The work itself broke: an error of ours, not of one item. The leader's thread raises the cause, and no other: an
    error in two threads holds the frames of both.
    """


class _Ticket(Generic[_Item]):
    """One caller's item, and the lock on which its thread waits."""

    __slots__ = ("done", "failure", "item", "ready")

    def __init__(self, item: _Item) -> None:
        self.item = item
        self.ready = threading.Lock()
        self.done = False
        self.failure = ""


class Batches(Generic[_Item]):
    """One batch at a time, in the order of arrival; as large as there are threads that bring items."""

    def __init__(self, work: Callable[[list[_Item]], None]) -> None:
        """`work` keeps what becomes of an item with the item: what it raises fails the whole batch."""
        self._work = work
        self._mutex = threading.Lock()
        self._queue: list[_Ticket[_Item]] = []
        self._busy = False
        self._wanted = 0
        self._gathering: _Ticket[_Item] | None = None

    def run(self, item: _Item) -> None:
        """Return when the work is done for `item`, here or in another caller's thread. Raises BatchFailedError."""
        ticket = _Ticket(item)
        with self._mutex:
            self._queue.append(ticket)
            follows, self._busy = self._busy, True
            if follows:
                ticket.ready.acquire()
                self._wake_if_all_are_here()
        if follows:
            ticket.ready.acquire()  # until a leader has done it, or steps down for this one
        if not ticket.done:
            self._lead(ticket)
        if ticket.failure:
            raise BatchFailedError(ticket.failure)

    def _lead(self, leader: _Ticket[_Item]) -> None:
        self._gather(leader)
        with self._mutex:
            batch, self._queue = self._queue, []
        failure = ""
        try:
            self._work([ticket.item for ticket in batch])
        except BaseException as error:
            failure = f"{type(error).__name__} in the thread of another call, whose entry in the log has the cause"
            raise
        finally:
            self._wanted = len(batch) + len(self._queue)
            for ticket in batch:
                ticket.done, ticket.failure = True, failure
                if ticket is not leader:
                    ticket.ready.release()
            self._step_down()

    def _gather(self, leader: _Ticket[_Item]) -> None:
        if self._wanted < GATHER_FROM:
            return
        leader.ready.acquire(blocking=False)
        with self._mutex:
            if len(self._queue) >= self._wanted:
                return
            self._gathering = leader
        leader.ready.acquire(timeout=GATHER_SECONDS)
        with self._mutex:
            self._gathering = None

    def _wake_if_all_are_here(self) -> None:
        if self._gathering is not None and len(self._queue) >= self._wanted:
            self._gathering.ready.release()
            self._gathering = None

    def _step_down(self) -> None:
        with self._mutex:
            successor = self._queue[0] if self._queue else None
            self._busy = successor is not None
        if successor is not None:
            successor.ready.release()
