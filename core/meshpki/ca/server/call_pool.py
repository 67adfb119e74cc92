"""Threads for the calls of one listener: all that grpcio asks of a pool, for a fifth of a ThreadPoolExecutor's price.

grpcio calls `submit` for each call and then `add_done_callback` of what that returned. A Future that others could wait
for, cancel and ask for results costs 10 us a call (measured; ADR 0015), and nobody does.
"""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    Task: TypeAlias = Callable[..., object]
    Said: TypeAlias = Callable[["Ending"], object]

_LOG = logging.getLogger(__name__)


class Ending:
    """The end of one call: whoever wants to know is told once, now or then."""

    __slots__ = ("_ended", "_listeners")

    def __init__(self) -> None:
        self._listeners: list[Said] = []
        self._ended = False

    def add_done_callback(self, listener: Said) -> None:
        """Call `listener` when the call has ended, at once if it has."""
        self._listeners.append(listener)
        if self._ended:
            self._tell()

    def say(self) -> None:
        """It has ended."""
        self._ended = True
        self._tell()

    def _tell(self) -> None:
        while self._listeners:
            try:
                listener = self._listeners.pop()  # in one thread only, whichever comes first
            except IndexError:
                return
            listener(self)


class CallPool:
    """So many threads, from `start` to `stop`; they keep nobody from ending the process."""

    def __init__(self, threads: int, name: str) -> None:
        self._queue: SimpleQueue[tuple[Ending, Task, tuple[object, ...]] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"{name}_{number}", daemon=True) for number in range(threads)
        ]

    def start(self) -> None:
        """Begin with what was submitted. Once."""
        for thread in self._threads:
            thread.start()

    def submit(self, task: Task, *arguments: object) -> Ending:
        """Have a thread call `task(*arguments)`; what it returns is dropped, what it raises is logged."""
        ending = Ending()
        self._queue.put((ending, task, arguments))
        return ending

    def stop(self) -> None:
        """End each thread after what is before it in the queue. Waits for none."""
        for _ in self._threads:
            self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            ending, task, arguments = work
            try:
                task(*arguments)
            except Exception:  # noqa: BLE001  # the thread has to outlive every failure
                _LOG.exception("a call ended with an error that grpcio did not take")
            finally:
                ending.say()
            del work, ending, task, arguments  # a thread that waits holds on to no call
