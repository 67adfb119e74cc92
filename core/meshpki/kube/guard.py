"""Cutting connections at a deadline: a socket's own timeout begins anew with every byte that a peer lets drip."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import socket
import threading
import time
from typing import TYPE_CHECKING

from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.connection import HTTPConnection
    from urllib3.response import HTTPResponse


class Guarded:
    """One stretch of work that ends by `deadline` (monotonic seconds), and the socket it is held up by."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.is_over = False
        """Whether the deadline passed before the work was done: whatever failed, failed because of that."""
        self._is_done = False
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()

    def attach(self, sock: socket.socket) -> None:
        """Cut this one from now on, instead of any other."""
        with self._lock:
            self._socket = sock
            if self.is_over:
                _cut(sock)

    def fire(self) -> None:
        """The deadline has come."""
        with self._lock:
            if not self._is_done:
                self.is_over = True
                if self._socket is not None:
                    _cut(self._socket)

    def done(self) -> None:
        """The work is done: the socket may belong to somebody else from now on."""
        with self._lock:
            self._is_done = True
            self._socket = None


class Watchdog:
    """A thread that fires what is due; it ends when there is nothing left, and wakes for no deadline that was met."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, Guarded]] = []
        self._number = itertools.count()
        self._runs = False

    def add(self, guarded: Guarded) -> None:
        """Fire it when its deadline comes."""
        with self._changed:
            heapq.heappush(self._waiting, (guarded.deadline, next(self._number), guarded))
            if not self._runs:
                self._runs = True
                threading.Thread(target=self._run, name="kube-deadlines", daemon=True).start()
            elif self._waiting[0][2] is guarded:
                self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                if not self._waiting:
                    self._runs = False
                    return
                left = self._waiting[0][0] - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                guarded = heapq.heappop(self._waiting)[2]
            guarded.fire()


_watchdog = Watchdog()
_current = threading.local()


@contextlib.contextmanager
def until(deadline: float) -> Iterator[Guarded]:
    """Cut whatever connection this thread uses in the block when `deadline` has come."""
    guarded = Guarded(deadline)
    _current.guarded = guarded
    _watchdog.add(guarded)
    try:
        yield guarded
    finally:
        guarded.done()
        _current.guarded = None


def _attach(sock: socket.socket | None) -> None:
    guarded: Guarded | None = getattr(_current, "guarded", None)
    if guarded is not None and sock is not None:
        guarded.attach(sock)


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # below TLS: another thread is inside of it


class _Connection(HTTPSConnection):
    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as urllib3 has it
        # Not before: Python's ssl bounds a whole handshake by the timeout, not each reading of it.
        _attach(self.sock)
        return super().getresponse()


class GuardedPool(HTTPSConnectionPool):
    """A pool whose connections can be cut by `until`."""

    ConnectionCls: type[HTTPConnection] = _Connection  # type: ignore[assignment]
