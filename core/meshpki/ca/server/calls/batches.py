"""Work that is done for several callers at once, in a thread of its own: whoever comes meanwhile is in the next batch.

Why: one sync of the disk serves all, and each step of the work finds its code and data in the processor's caches when
it is done for many in a row (ADR 0015).
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_Item = TypeVar("_Item")
_LOG = logging.getLogger(__name__)


class Batches(Generic[_Item]):
    """One batch at a time, in the order of arrival, from `start` to `stop`."""

    def __init__(self, work: Callable[[list[_Item]], object]) -> None:
        """`work` keeps what becomes of an item with the item, and raises nothing."""
        self._work = work
        self._queue: SimpleQueue[Sequence[_Item]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)

    def start(self) -> None:
        """Begin with what is there."""
        self._thread.start()

    def put(self, *items: _Item) -> None:
        """Have them in the next batch. Safe for threads."""
        self._queue.put(items)

    def stop(self) -> None:
        """End after what is there. Waits for nothing."""
        self._queue.put(())

    def _run(self) -> None:
        batch: list[_Item] = []
        going_on = True
        while going_on:
            taken = [self._queue.get()]
            while not self._queue.empty():
                taken.append(self._queue.get())
            batch = [item for items in taken for item in items]
            going_on = all(taken)
            try:
                self._work(batch)
            except BaseException:  # noqa: BLE001  # the thread has to outlive every failure
                _LOG.exception("a batch failed")
            del batch, taken  # a thread that waits holds on to no call
