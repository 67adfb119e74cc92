"""What a reviewer did, in numbers: for metrics."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Upper bounds in seconds."""


class Outcome(StrEnum):
    """How the question about one token ended."""

    CONFIRMED = "confirmed"
    REFUSED = "refused"
    UNJUDGED = "unjudged"
    """The API server was asked, and there was no verdict."""
    CACHED = "cached"
    """An earlier verdict still held."""
    SHARED = "shared"
    """Another call was asking about the same token."""
    TURNED_AWAY = "turned_away"
    """Nobody was asked: too many at once, or the API server is known not to answer."""


ASKED: Final = (Outcome.CONFIRMED, Outcome.REFUSED, Outcome.UNJUDGED)


@dataclass(frozen=True, slots=True)
class ReviewNumbers:
    """The counts of one moment."""

    outcomes: Mapping[Outcome, int]
    buckets: tuple[int, ...]
    """Asks that took at most as long as each of BUCKETS says, and all of them at the end."""
    seconds: float
    """All asks together."""

    @property
    def asked(self) -> int:
        """Requests to the API server, without self-checks."""
        return sum(self.outcomes[outcome] for outcome in ASKED)


class ReviewCounts:
    """Counts. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[Outcome] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count a call for which the API server was not asked."""
        with self._lock:
            self._outcomes[outcome] += 1

    def asked(self, outcome: Outcome, seconds: float) -> None:
        """Count one that it was asked for, and how long that took."""
        with self._lock:
            self._outcomes[outcome] += 1
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def now(self) -> ReviewNumbers:
        """The counts as they are."""
        with self._lock:
            return ReviewNumbers(
                {outcome: self._outcomes[outcome] for outcome in Outcome},
                tuple(accumulate(self._buckets)),
                self._seconds,
            )
