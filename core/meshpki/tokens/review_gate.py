"""Who may ask an API server now: so many at once and no more, and nobody while it is known not to answer. Pure.

Times are seconds of a clock that never goes back.
"""

from __future__ import annotations

import math
import threading
from typing import Final

from meshpki.tokens.review import Cause, Unjudged, Verdict

PAUSE_SECONDS: Final = 1.0
MAX_PAUSE_SECONDS: Final = 10.0
_OF_THE_SERVER: Final = frozenset({Cause.AWAY, Cause.SLOW, Cause.THROTTLED, Cause.UNAUTHORIZED, Cause.FORBIDDEN})
"""What says nothing of the token, but that the next one would fare alike. A 5xx may come of the token."""
FULL: Final = Unjudged(Cause.BUSY, "as many calls as we allow wait for the API server", "try again in a moment")


class Places:
    """How many calls one API server may keep at once, asking or waiting, whatever about. Safe for threads.

    The gates of one cluster share them: what is slow is the server, and what it must not take are the CA's threads.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._lock = threading.Lock()
        self.taken = 0

    def take(self) -> bool:
        """Take one; false when there is none."""
        with self._lock:
            free = self.taken < self._number
            self.taken += free
            return free

    def give(self) -> None:
        """Give one back."""
        with self._lock:
            self.taken -= 1


class Gate:
    """The state. Not safe for threads: its owner has a lock."""

    def __init__(self, places: Places, *, probe_seconds: float) -> None:
        """Whoever is inside has one of the `places`; `probe_seconds` is how long one ask can take."""
        self._places = places
        self._probe_seconds = probe_seconds
        self._failure: Unjudged | None = None
        self._closed_until = 0.0
        self._answered_at = -math.inf

    @property
    def failure(self) -> Unjudged | None:
        """Why the last ask brought nothing, if the next would not either."""
        return self._failure

    def enter(self, now: float) -> Unjudged | None:
        """Come in, or learn why not; whoever came in has to `leave`.

        While the API server is known not to answer, one in a while may try, and the others hear at once what is wrong:
        none of them takes a thread to wait for it.
        """
        if self._failure is not None and now < self._closed_until:
            return self._failure
        if not self._places.take():
            return FULL
        if self._failure is not None:
            self._closed_until = now + self._probe_seconds
        return None

    def leave(self) -> None:
        """Go out."""
        self._places.give()

    def landed(self, verdict: Verdict | None, now: float) -> bool:
        """Note what an ask brought (None: all is well); true if that changed whether the server answers."""
        before = self._failure
        if isinstance(verdict, Unjudged) and verdict.cause in _OF_THE_SERVER:
            if verdict.cause is Cause.SLOW and now - self._answered_at < self._probe_seconds:
                return False  # others had their answers meanwhile: it is busy, not stuck
            pause = PAUSE_SECONDS if verdict.retry_after is None else verdict.retry_after
            self._failure = verdict
            self._closed_until = now + min(max(pause, PAUSE_SECONDS), MAX_PAUSE_SECONDS)
        elif not isinstance(verdict, Unjudged):
            self._failure, self._answered_at = None, now
        return (before and before.cause) != (self._failure and self._failure.cause)
