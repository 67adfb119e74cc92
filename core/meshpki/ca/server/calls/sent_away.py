"""Calls that were sent away because there was too much at once: counted, and said in the log now and then."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOG = logging.getLogger(__name__)
SAY_AGAIN_SECONDS: Final = 10.0


class SentAway:
    """How many, by reason. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._said: Counter[str] = Counter()
        self._said_at = -SAY_AGAIN_SECONDS

    def count(self, reason: str) -> None:
        """One more."""
        with self._lock:
            self._counts[reason] += 1

    def counts(self) -> Mapping[str, int]:
        """How many, by reason."""
        with self._lock:
            return dict(self._counts)

    def say(self, now: float) -> None:
        """Tell the log of those since the last time, if that is some seconds ago. Call it about once a second."""
        with self._lock:
            new = self._counts - self._said
            if not new or now - self._said_at < SAY_AGAIN_SECONDS:
                return
            self._said, self._said_at = self._counts.copy(), now
        _LOG.warning("calls were sent away: there were too many at once", extra=dict(new))
