"""Exponential backoff with jitter and a cap, as a pure function of the attempt and a random number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class Backoff:
    """Delays in seconds: `first`, then twice as much each time, never above `cap`, spread by +-`jitter` of it."""

    first: float
    cap: float
    jitter: float = 0.2

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after `failures` failures in a row (>= 1); `chance` is in [0, 1)."""
        doublings = min(max(failures, 1) - 1, 32)  # beyond that every cap is long passed, and floats stay finite
        bare: float = min(self.first * 2.0**doublings, self.cap)
        return min(bare * (1 + self.jitter * (2 * chance - 1)), self.cap)


RETRY: Final = Backoff(first=1.0, cap=60.0)
"""After a failure that may pass: the CA away or busy, the token file not there yet."""
DENIED: Final = Backoff(first=30.0, cap=300.0)
"""After a refusal: slow, for the same question gets the same answer until somebody changes something."""
