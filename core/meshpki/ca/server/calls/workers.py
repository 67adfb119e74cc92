"""Threads for what has to wait for somebody: keys, an API server, a signer far away.

There is a thread for each place, made when it is first needed: whoever is waited for long keeps nobody else from being
served, as long as there are places (ADR 0017).
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    Task: TypeAlias = Callable[[], object]

_LOG = logging.getLogger(__name__)


class Workers:
    """As many threads as there is something to wait for, `most` of them; they keep nobody from ending the process."""

    def __init__(self, most: int, name: str) -> None:
        self._most = most
        self._name = name
        self._queue: SimpleQueue[Task | None] = SimpleQueue()
        self._tasks: set[object] = set()
        self._threads = 0

    def submit(self, task: Task) -> None:
        """Have a thread do it; what it raises is logged. For one thread at a time.

        Raises RuntimeError when there is no thread, and the machine gives none.
        """
        mark = object()

        def marked() -> None:
            try:
                task()
            finally:
                self._tasks.discard(mark)

        if self._threads < min(len(self._tasks) + 1, self._most):
            self._add_thread()
        self._tasks.add(mark)
        self._queue.put(marked)

    def stop(self) -> None:
        """End each thread after what is before it in the queue. Waits for none."""
        self._queue.put(None)

    def _add_thread(self) -> None:
        try:
            threading.Thread(target=self._run, name=f"{self._name}_{self._threads}", daemon=True).start()
        except RuntimeError:  # the machine gives no more: those that are there have to do
            if not self._threads:
                raise
            _LOG.warning("there is no thread for another call", extra={"threads": self._threads})
        else:
            self._threads += 1

    def _run(self) -> None:
        while (task := self._queue.get()) is not None:
            try:
                task()
            except BaseException:  # noqa: BLE001  # the thread has to outlive every failure
                _LOG.exception("a call's thread met an error of ours")
            del task  # a thread that waits holds on to no call
        self._queue.put(None)  # for the next thread
