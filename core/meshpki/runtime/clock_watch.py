"""One look at the clock for a whole process: word of each jump of the wall clock, which timers know nothing of."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

TOLERANCE_SECONDS: Final = 1.0
"""A clock that is kept right by small steps and by drifting is followed at this distance."""


class ClockWatch:
    """Compares the wall clock with the monotonic one, which is neither set nor runs while the machine sleeps.

    So a thousand who wait for a time of day can sleep until then, and only one has to look now and then.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._ahead = clock() - monotonic()
        self._jumped = Signal()

    def jumps(self) -> asyncio.Future[None]:
        """Get a future that is done when the next jump is noticed: see Signal.next."""
        return self._jumped.next()

    def look(self) -> None:
        """Wake those who wait, if the clock has jumped since the last time that it had."""
        ahead = self._clock() - self._monotonic()
        if abs(ahead - self._ahead) > TOLERANCE_SECONDS:
            self._ahead = ahead
            self._jumped.wake()
