"""Threads and places for the calls of one listener: all that grpcio asks of a pool, for a fifth of the price.

grpcio calls `submit` for each call and then `add_done_callback` of what that returned. A Future that others could wait
for, cancel and ask for results costs 10 us a call (measured; ADR 0015), and nobody does.

There is a thread for each place, made when it is first needed: whoever holds one by sending nothing keeps nobody else
from being served, as long as there are places (ADR 0016).
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future
    from typing import Any

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
    """So many places, from `start` to `stop`; its threads keep nobody from ending the process."""

    def __init__(self, places: int, name: str) -> None:
        self.places = places
        self._name = name
        self._queue: SimpleQueue[tuple[Ending, Task, tuple[object, ...]] | None] = SimpleQueue()
        self._calls: set[Ending] = set()
        self._threads = 0
        self._started = False

    def count(self) -> int:
        """How many calls were begun and have not ended."""
        return len(self._calls)

    def full(self) -> bool:
        """Whether every place is taken. `submit` takes a call all the same: whoever asks has to say no."""
        return len(self._calls) >= self.places

    def start(self) -> None:
        """Begin with what was submitted. Once."""
        self._started = True
        for _ in range(len(self._calls)):
            self._add_thread()

    def submit(self, task: Task, *arguments: object) -> Ending:
        """Have a thread call `task(*arguments)`; what it returns is dropped, what it raises is logged.

        For one thread at a time: grpcio's.
        """
        ending = Ending()
        self._calls.add(ending)
        self._queue.put((ending, task, arguments))
        if len(self._calls) > self._threads:
            self._add_thread()
        return ending

    def stop(self) -> None:
        """End each thread after what is before it in the queue. Waits for none."""
        self._queue.put(None)

    def _add_thread(self) -> None:
        if not self._started or self._threads >= self.places:
            return
        try:
            threading.Thread(target=self._run, name=f"{self._name}_{self._threads}", daemon=True).start()
        except RuntimeError:  # the machine gives no more: those that are there have to do
            _LOG.warning("there is no thread for another call", extra={"threads": self._threads})
        else:
            self._threads += 1

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            ending, task, arguments = work
            try:
                task(*arguments)
            except Exception:  # noqa: BLE001  # the thread has to outlive every failure
                _LOG.exception("a call ended with an error that grpcio did not take")
            finally:
                self._calls.discard(ending)
                ending.say()
            del work, ending, task, arguments  # a thread that waits holds on to no call
        self._queue.put(None)  # for the next thread


class AsidePool(ThreadPoolExecutor):
    """Threads and places of their own for methods that are served aside; grpcio takes nothing but an executor there."""

    def __init__(self, places: int, threads: int, name: str) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.places = places
        self._calls: set[Future[Any]] = set()  # Any: what grpcio's tasks return

    def count(self) -> int:
        """How many calls were begun and have not ended."""
        return len(self._calls)

    def full(self) -> bool:
        """Whether every place is taken."""
        return len(self._calls) >= self.places

    def submit(self, task: Task, /, *arguments: object) -> Future[Any]:  # type: ignore[override]  # grpcio's calls only
        """As the base class does, and count it."""
        future = super().submit(task, *arguments)
        self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future


class AtOnce(ThreadPoolExecutor):
    """No threads at all: `submit` has done it when it returns. For answers that wait for nobody."""

    def __init__(self) -> None:
        super().__init__(1)

    def submit(self, task: Task, /, *arguments: object) -> Ending:  # type: ignore[override]  # grpcio's calls only
        """Call `task(*arguments)` here and now."""
        ending = Ending()
        try:
            task(*arguments)
        finally:
            ending.say()
        return ending
