"""Who may keep the server waiting, and how often: rules and a memory, without clock and thread (ADR 0017).

Whoever shows a good credential may open a call and send no request. That costs him nothing, and us a place: so each
caller may be late now and then, and for whoever is late all the time there is no patience, until he has been quiet for
a while. A caller whose requests follow at once, as those of every client of istio do, is never noted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Hashable

REQUEST_SECONDS: Final = 2.0
"""From the headers of a call to its request: a client sends both at once, and a lost packet comes again in a second."""
LATE_SECONDS: Final = 0.25
"""From then on a call is late: it is noted, and may have to make room."""
LEFT_SECONDS: Final = 0.02
"""A call that ends without a request is noted, too, if it was waited for so long; else its caller was late to leave."""
OFTEN: Final = 8.0
"""So many times in a row a caller may be late."""
FORGIVEN_PER_SECOND: Final = 1.0
MOST_OWED: Final = 60.0
"""Whoever is late however often is patiently waited for again after a minute."""
MOST_CALLERS: Final = 4096
"""About 300 bytes each; the one noted first is forgotten for another."""


@dataclass(slots=True)
class _Owed:
    times: float
    at: float


class Patience:
    """How often each caller was late, as far as it counts. Times are seconds of any clock that goes forward."""

    def __init__(self) -> None:
        self._owed: dict[Hashable, _Owed] = {}

    def __bool__(self) -> bool:
        """Whether anybody was late lately."""
        return bool(self._owed)

    def note(self, caller: Hashable, now: float) -> None:
        """He was late once more."""
        times = min(self._times(caller, now) + 1.0, MOST_OWED)
        self._owed.pop(caller, None)
        if len(self._owed) >= MOST_CALLERS:
            self._forget(now)
        self._owed[caller] = _Owed(times, now)

    def lost(self, caller: Hashable, now: float) -> bool:
        """Whether he was late too often."""
        return self._times(caller, now) > OFTEN

    def look(self, now: float) -> None:
        """Forget whom there is nothing left to forgive. Call it now and then."""
        for caller in [each for each in self._owed if self._times(each, now) <= 0]:
            del self._owed[caller]

    def _forget(self, now: float) -> None:
        self.look(now)
        if len(self._owed) >= MOST_CALLERS:
            del self._owed[next(iter(self._owed))]

    def _times(self, caller: Hashable, now: float) -> float:
        owed = self._owed.get(caller)
        return 0.0 if owed is None else max(0.0, owed.times - (now - owed.at) * FORGIVEN_PER_SECOND)
