"""What a server does once a second beside its calls: one thread, each chore on its own so that none stops another."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_LOG = logging.getLogger(__name__)
PERIOD_SECONDS: Final = 1.0


class Housekeeping:
    """Runs chores from `start` to `stop`. A chore that raises is logged, once until it works again."""

    def __init__(self, chores: Mapping[str, Callable[[], object]], *, period: float = PERIOD_SECONDS) -> None:
        self._chores = chores
        self._period = period
        self._failing: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="housekeeping", daemon=True)

    def start(self) -> None:
        """Begin; the first round is at once."""
        self._thread.start()

    def end(self) -> None:
        """Begin nothing new. Waits for nothing."""
        self._stop.set()

    def stop(self, seconds: float | None = None) -> None:
        """End after the chore that is under way, and wait for that, or for so long at most. Idempotent.

        A chore that waits for another machine may be left to itself: its thread keeps nobody from ending the process.
        """
        self.end()
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        while True:
            for name, chore in self._chores.items():
                self._do(name, chore)
                if self._stop.is_set():
                    return
            if self._stop.wait(self._period):
                return

    def _do(self, name: str, chore: Callable[[], object]) -> None:
        try:
            chore()
        except Exception:  # noqa: BLE001  # the thread has to outlive every failure
            if name not in self._failing:
                _LOG.exception("a chore failed", extra={"chore": name})
            self._failing.add(name)
        else:
            self._failing.discard(name)
