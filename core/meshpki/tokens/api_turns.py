"""Whose turn it is to ask an API server: so many at once, some more who wait a while, nobody while it is away."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

from meshpki.errors import UnavailableError
from meshpki.tokens.review import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.errors import MeshpkiError
    from meshpki.tokens.review import Unjudged, Verdict
    from meshpki.tokens.review_gate import Gate


class Turns:
    """Those of one kind of question to one API server. Safe for threads."""

    def __init__(
        self,
        gate: Gate,
        at_once: int,
        *,
        patience_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of those whom `gate` lets in `at_once` may ask; the others wait for that, each for `patience_seconds`."""
        self._gate = gate
        self._lock = threading.Lock()
        self._asking = threading.BoundedSemaphore(at_once)
        self._patience = patience_seconds
        self._monotonic = monotonic

    @property
    def failure(self) -> Unjudged | None:
        """Why the last question brought nothing, if the next would not either."""
        return self._gate.failure

    def enter(self) -> Unjudged | None:
        """Come in, or learn at once why not; whoever came in has to `leave`."""
        with self._lock:
            return self._gate.enter(self._monotonic())

    def leave(self) -> None:
        """Go out."""
        with self._lock:
            self._gate.leave()

    @contextlib.contextmanager
    def turn(self) -> Iterator[bool]:
        """Wait until it is one's turn to ask, and give it on at the end; false when that took too long."""
        mine = self._asking.acquire(timeout=self._patience)
        try:
            yield mine
        finally:
            if mine:
                self._asking.release()

    def landed(self, verdict: Verdict | None) -> bool:
        """Note what a question brought (None: all is well); true if that changed whether the server answers."""
        with self._lock:
            return self._gate.landed(verdict, self._monotonic())


def cause_of(error: MeshpkiError) -> Cause:
    """What an error of the kube room says of the API server, or of us."""
    from meshpki.kube import errors as kube

    match error:
        case kube.KubeUnreachableError(why=kube.Unreachable.TIMEOUT):
            return Cause.SLOW
        case kube.KubeThrottledError():
            return Cause.THROTTLED
        case kube.KubeServerError():
            return Cause.SERVER_ERROR
        case UnavailableError():
            return Cause.AWAY
        case kube.KubeUnauthorizedError() | kube.KubeCredentialError():
            return Cause.UNAUTHORIZED
        case kube.KubeForbiddenError():
            return Cause.FORBIDDEN
        case _:  # an answer without end, or of something that is no API server
            return Cause.ANSWER
