"""Where calls wait for their requests: not for long, not too many at once, and nobody again and again."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final

import grpc

from meshpki.ca.server.endings import forget
from meshpki.ca.server.methods import CallRefusedError
from meshpki.ca.server.patience import LATE_SECONDS, LEFT_SECONDS, REQUEST_SECONDS, Patience

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

REQUEST_LATE: Final = "request_late"
CALLER_LATE: Final = "caller_late"
CALLER_LEFT: Final = "caller_left"
REQUEST_MISSING: Final = "request_missing"
WITHOUT_REQUEST: Final = frozenset({REQUEST_LATE, CALLER_LATE, CALLER_LEFT, REQUEST_MISSING})
MOST_OF_THE_LATE: Final = 8
"""So many calls of a caller who was late too often are waited for at once: one more, and the first has to go. He is not
refused, for others may share his account, and their requests follow at once."""
_TOO_MUCH: Final = grpc.StatusCode.RESOURCE_EXHAUSTED


class Request:
    """The request of one call, for a handler that wants it (`methods.Received`).

    A handler may keep it for as long as it likes: of a call that has ended it holds nothing.
    """

    __slots__ = ("_context", "_requests", "_room", "caller", "noted", "sent_away", "since")

    def __init__(self, requests: Iterator[bytes], context: grpc.ServicerContext, room: WaitingRoom) -> None:
        self._requests = requests
        self._context: grpc.ServicerContext | None = context
        self._room = room
        self.caller: object = None
        """What the method's rule said of who calls."""
        self.since = 0.0
        self.noted = False
        self.sent_away: CallRefusedError | None = None
        """Why we did not wait any longer."""

    def __call__(self) -> bytes:
        """Wait for the request. Raises CallRefusedError."""
        room = self._room
        room.enter(self)
        refused: CallRefusedError | None
        try:
            request = next(self._requests)
            refused = self.sent_away
        except StopIteration:
            refused = self.sent_away or _refusal(REQUEST_MISSING)
        except grpc.RpcError as error:
            forget(error)  # grpcio keeps it with the call, and it would keep the call with its frames
            refused = self.sent_away or _refusal(CALLER_LEFT)
        finally:
            room.leave(self)
        if refused is not None:
            room.unanswered(self)
            raise refused
        return request

    def alive(self) -> bool:
        """Whether the caller still waits for an answer."""
        return self._context is not None and bool(self._context.is_active())

    def close(self) -> None:
        """The call has ended."""
        self._context, self._requests = None, iter(())

    def send_away(self, refused: CallRefusedError) -> None:
        """End the call from another thread than its own, which wakes from whatever it waits for."""
        context, self.sent_away = self._context, refused
        if context is None:
            return
        # grpcio's own `cancel` takes no status: the caller would hear CANCELLED, and not why.
        call: Any = getattr(getattr(context, "_rpc_event", None), "call", None)  # Any: of grpcio's inside
        if call is None:
            context.cancel()
        else:
            call.cancel(refused.status.value[0], str(refused))


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
        self._waits: dict[Request, None] = {}  # in the order in which they came
        self._lock = threading.Lock()
        self._patience = Patience()

    def count(self) -> int:
        """How many wait."""
        return len(self._waits)

    def enter(self, request: Request) -> None:
        """Begin to wait."""
        request.since = now = self._clock()
        self._waits[request] = None
        if len(self._waits) > self._most:
            self._make_room(now)
        if self._patience:
            self._make_room_for_one_of_the_late(request, now)

    def leave(self, request: Request) -> None:
        """End the wait."""
        self._waits.pop(request, None)

    def unanswered(self, request: Request) -> None:
        """It ended without a request."""
        now = self._clock()
        if now - request.since > LEFT_SECONDS:
            self._note(request, now)

    def look(self, now: float) -> None:
        """Send away whoever keeps us waiting too long or too often. Call it some times a second."""
        for request in list(self._waits):
            waited = now - request.since
            if request.sent_away is not None or waited <= LATE_SECONDS:
                continue
            self._note(request, now)
            if waited > REQUEST_SECONDS:
                self._send_away(request, REQUEST_LATE)
            elif self._lost(request, now):
                self._send_away(request, CALLER_LATE)
        self._make_room(now)
        with self._lock:
            self._patience.look(now)

    def _make_room(self, now: float) -> None:
        here = [request for request in list(self._waits) if request.sent_away is None]
        for request in here[: max(0, len(here) - self._most)]:
            if now - request.since > self._grace:
                self._send_away(request, REQUEST_LATE)

    def _make_room_for_one_of_the_late(self, request: Request, now: float) -> None:
        if self._lost(request, now):
            account = self._of(request)
            theirs = [each for each in list(self._waits) if each.sent_away is None and self._of(each) == account]
            for each in theirs[:-MOST_OF_THE_LATE]:
                self._send_away(each, CALLER_LATE)

    def _note(self, request: Request, now: float) -> None:
        if self._account is not None and not request.noted:
            request.noted = True
            with self._lock:
                self._patience.note(self._of(request), now)

    def _lost(self, request: Request, now: float) -> bool:
        if self._account is None:
            return False
        with self._lock:
            return self._patience.lost(self._of(request), now)

    def _of(self, request: Request) -> Hashable:
        assert self._account is not None
        return self._account(request.caller)

    def _send_away(self, request: Request, reason: str) -> None:
        self._said(reason)
        request.send_away(_refusal(reason))


def _refusal(reason: str) -> CallRefusedError:
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
