"""Where calls wait for their requests: not for long, not too many at once, and nobody again and again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

import grpc

from meshpki.ca.server.calls.methods import CallRefusedError
from meshpki.ca.server.calls.patience import LATE_SECONDS, LEFT_SECONDS, REQUEST_SECONDS, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

REQUEST_LATE: Final = "request_late"
CALLER_LATE: Final = "caller_late"
CALLER_LEFT: Final = "caller_left"
REQUEST_MISSING: Final = "request_missing"
WITHOUT_REQUEST: Final = frozenset({REQUEST_LATE, CALLER_LATE, CALLER_LEFT, REQUEST_MISSING})
MOST_OF_THE_LATE: Final = 8
"""So many calls of a caller who was late too often are waited for at once: one more, and the first has to go. He is not
refused, for others may share his account, and their requests follow at once."""
_TOO_MUCH: Final = grpc.StatusCode.RESOURCE_EXHAUSTED


class Waits(Protocol):
    """A call that waits for its request, and what the room keeps with it."""

    caller: object
    """What the method's rule said of who calls."""
    since: float
    noted: bool
    sent_away: CallRefusedError | None
    """Why it was not waited for any longer."""

    def send_away(self, refused: CallRefusedError) -> None:
        """End the call, from any thread."""


class WaitingRoom:
    """The calls of one pool that wait. Safe for threads."""

    def __init__(
        self,
        most: int,
        said: Callable[[str], object],
        *,
        grace: float = LATE_SECONDS,
        account: Callable[[object], Hashable] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """When more than `most` wait, those who do so longest, and longer than `grace`, have to go; `said` hears why
        each call is sent away. `account` tells on whose account a caller is late, from what the rule said; without it
        nobody is ever late too often.
        """
        self._most = most
        self._grace = grace
        self._account = account
        self._said = said
        self._clock = clock
        self._waits: dict[Waits, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        self._patience = Patience()
        self.heard: Callable[[float], float] = lambda now: now
        """Up to when all that came was heard, from the time that it is: a request that lies there is not late."""

    def count(self) -> int:
        """How many wait."""
        return len(self._waits)

    def holds(self, call: Waits) -> bool:
        """Whether it waits, and was not sent away."""
        return call in self._waits and call.sent_away is None

    def enter(self, call: Waits, since: float | None = None) -> bool:
        """Begin to wait; `since` the same moment as others that were judged in a row with it.

        Returns whether calls of another row may cost it its place before it is late: then let it be heard before them.
        """
        call.since = now = self._clock() if since is None else since
        self._waits[call] = None
        if len(self._waits) > self._most:
            self._make_room(now)
        if self._patience and self._lost(call, now):
            self._make_room_for_one_of_the_late(call, now)
            return True
        return self._grace < LATE_SECONDS and len(self._waits) > self._most // 2  # a row is half as many at most

    def leave(self, call: Waits) -> None:
        """End the wait: from now on nobody sends it away."""
        with self._lock:
            self._waits.pop(call, None)

    def unanswered(self, call: Waits) -> None:
        """It ended without a request."""
        now = self._clock()
        if now - call.since > LEFT_SECONDS:
            self._note(call, now)

    def forgive(self, seconds: float) -> None:
        """So long this process stood still: requests may have come that nobody could take, so no caller was late."""
        for call in list(self._waits):
            call.since += seconds

    def look(self, now: float) -> None:
        """Send away whoever keeps us waiting too long or too often. Call it some times a second."""
        heard = self.heard(now)
        for call in list(self._waits):
            waited = heard - call.since
            if call.sent_away is not None or waited <= LATE_SECONDS:
                continue
            self._note(call, now)
            if waited > REQUEST_SECONDS:
                self._send_away(call, REQUEST_LATE)
            elif self._lost(call, now):
                self._send_away(call, CALLER_LATE)
        self._make_room(now)
        with self._lock:
            self._patience.look(now)

    def _make_room(self, now: float) -> None:
        here = [call for call in list(self._waits) if call.sent_away is None]
        heard = self.heard(now)
        for call in here[: max(0, len(here) - self._most)]:
            if heard - call.since > self._grace:
                self._send_away(call, REQUEST_LATE)

    def _make_room_for_one_of_the_late(self, call: Waits, now: float) -> None:
        account, heard = self._of(call), self.heard(now)
        theirs = [each for each in list(self._waits) if each.sent_away is None and self._of(each) == account]
        for each in theirs[:-MOST_OF_THE_LATE]:
            # Of its own row no request can have been heard yet, nor of any that came since all was heard.
            if each.since != call.since and each.since <= heard:
                self._send_away(each, CALLER_LATE)

    def _note(self, call: Waits, now: float) -> None:
        if self._account is not None and not call.noted:
            call.noted = True
            with self._lock:
                self._patience.note(self._of(call), now)

    def _lost(self, call: Waits, now: float) -> bool:
        if self._account is None:
            return False
        with self._lock:
            return self._patience.lost(self._of(call), now)

    def _of(self, call: Waits) -> Hashable:
        assert self._account is not None
        return self._account(call.caller)

    def _send_away(self, call: Waits, reason: str) -> None:
        with self._lock:
            if call not in self._waits or call.sent_away is not None:
                return  # its request came in this very moment, or another thread was first
            call.send_away(without_request(reason))
        self._said(reason)


def without_request(reason: str) -> CallRefusedError:
    """How a call ends that has no request, for one of the reasons WITHOUT_REQUEST."""
    status, sentence = _SAYS[reason]
    return CallRefusedError(status, reason, sentence)


_SAYS: Final = {
    REQUEST_MISSING: (grpc.StatusCode.INVALID_ARGUMENT, "the call ended without a request"),
    CALLER_LEFT: (grpc.StatusCode.CANCELLED, "the caller ended the call before its request came"),
    REQUEST_LATE: (
        _TOO_MUCH,
        f"no request followed the call within {REQUEST_SECONDS:g} s, or others needed its place; wanted: the request "
        "together with the call; to do: try again",
    ),
    CALLER_LATE: (
        _TOO_MUCH,
        "this caller left calls without a request too often, and is waited for no more; wanted: the request together "
        "with the call; to do: try again",
    ),
}
