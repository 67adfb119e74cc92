"""Looks at the calls that wait for their requests, some times a second; our own standing still makes nobody late."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from meshpki.ca.server.calls.waiting_room import WaitingRoom

LOOK_SECONDS: Final = 0.1
"""Between two looks."""
_STILL_SECONDS: Final = 1.0
"""A look that is later than that was kept from its time, and so was whoever takes requests. No less: a flood that makes
us slow must gain no time by it."""


class LateCalls:
    """Looks into the rooms of a server. For one thread.

    A machine that was suspended finds requests and its own clock at once: by the clock all who wait are late, though
    their requests lie there. So what a look is late by counts for nobody.
    """

    def __init__(self, rooms: Iterable[WaitingRoom], clock: Callable[[], float] = time.monotonic) -> None:
        self._rooms = tuple(rooms)
        self._clock = clock
        self._last: float | None = None

    def look(self) -> None:
        """Send away whoever is late. Call it every LOOK_SECONDS."""
        now = self._clock()
        late = 0.0 if self._last is None else now - self._last - LOOK_SECONDS
        self._last = now
        for room in self._rooms:
            if late > _STILL_SECONDS:
                room.forgive(late)
            room.look(now)
