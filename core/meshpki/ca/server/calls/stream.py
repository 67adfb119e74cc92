"""A call that is answered again and again, by whoever keeps it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.server.calls.grpc_core import CoreStream, Event
    from meshpki.ca.server.calls.methods import CallRefusedError


class Stream:
    """Safe for threads. When it is over, whoever ended it, everything but `over` does nothing."""

    __slots__ = ("_core", "_ended", "_lock", "_sending", "over")

    def __init__(self, core: CoreStream, ended: Callable[[], object]) -> None:
        """`ended` is called once, in the queue's thread."""
        self._core = core
        self._ended = ended
        self._lock = threading.Lock()
        self._sending = False
        self.over = False
        """Whether nothing more can be sent."""
        core.closes(self._closed)

    def send(self, message: bytes) -> bool:
        """Send one more; False where the one before has not left yet, for the client reads nothing."""
        with self._lock:
            if self.over or self._sending:
                return False
            self._sending = True
            self._core.send(message, self._sent)
        return True

    def finish(self, status: grpc.StatusCode = grpc.StatusCode.OK, text: str = "") -> None:
        """End it, after what was sent."""
        with self._lock:
            if not self.over:
                self.over = True
                self._core.finish(status, text, _heard)

    def displace(self, refused: CallRefusedError) -> None:
        """End it, whatever is on its way."""
        with self._lock:
            if not self.over:
                self.over = True
                self._core.cancel(refused.status, str(refused))

    def _sent(self, event: Event) -> None:  # noqa: ARG002  # a tag's form
        with self._lock:
            self._sending = False

    def _closed(self, event: Event) -> None:  # noqa: ARG002  # a tag's form
        with self._lock:
            self.over = True
        self._ended()


def _heard(event: Event) -> None:
    """That a status has left is nothing to anybody."""
