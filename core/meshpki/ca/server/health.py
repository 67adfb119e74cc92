"""The gRPC health checking protocol (grpc.health.v1), for whoever can reach the port: it tells one bit."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.server.methods import CallRefusedError, Method, StreamMethod, anyone
from meshpki.wire import health_pb2
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.ca.server.methods import Call, Received

SERVICES: Final = ("", CREATE_CERTIFICATE.split("/")[1])
WATCHES_AT_ONCE: Final = 8
"""Each takes a thread for as long as it likes, from callers who proved nothing: one more, and the oldest has to go."""
HEALTH_BUSY: Final = "health_busy"
_POLL_SECONDS: Final = 1.0
_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Answers for the whole server and for the certificate service alike."""

    def __init__(self, serving: Callable[[], bool], said: Callable[[str], object]) -> None:
        """`serving` is the bit; `said` hears why a watcher is sent away."""
        self._serving = serving
        self._said = said
        self._lock = threading.Lock()
        self._watchers: list[_Watcher] = []
        self._stopping = False

    def methods(self) -> tuple[Method[None], StreamMethod[None]]:
        """Its part of the method table."""
        return (
            Method(HEALTH_CHECK, anyone, self.check, aside=True),
            StreamMethod(HEALTH_WATCH, anyone, self.watch, aside=True),
        )

    def stop(self) -> None:
        """Say NOT_SERVING to all watchers and end their calls."""
        with self._lock:
            self._stopping = True
            for watcher in self._watchers:
                watcher.wake.set()

    def check(self, call: Call, granted: None, received: Received) -> bytes:  # noqa: ARG002  # a handler's form
        """Answer once. NOT_FOUND for a service that is none of ours."""
        name = _service(received())
        if name not in SERVICES:
            raise CallRefusedError(grpc.StatusCode.NOT_FOUND, "service_unknown", "no such service here")
        return self._answer(name)

    def watch(self, call: Call, granted: None, received: Received) -> Iterator[bytes]:  # noqa: ARG002
        """Answer at once and at every change, until the caller leaves, others need its place or the server stops."""
        name, last = _service(received()), b""
        with self._watcher(received) as watcher:
            while received.alive():
                stopping = self._stopping
                answer = self._answer(name)
                if answer != last:
                    yield answer
                    last = answer
                if stopping:
                    return
                watcher.wake.wait(_POLL_SECONDS)

    @contextlib.contextmanager
    def _watcher(self, received: Received) -> Iterator[_Watcher]:
        watcher = _Watcher(received)
        with self._lock:
            self._watchers.append(watcher)
            if len(self._watchers) > WATCHES_AT_ONCE:
                self._watchers.pop(0).displace()
                self._said(HEALTH_BUSY)
        try:
            yield watcher
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._watchers.remove(watcher)

    def _answer(self, name: str) -> bytes:
        if name not in SERVICES:
            status = _Status.SERVICE_UNKNOWN
        elif self._serving() and not self._stopping:
            status = _Status.SERVING
        else:
            status = _Status.NOT_SERVING
        return _Status(status=status).SerializeToString()


class _Watcher:
    """One who watches, and what wakes him."""

    def __init__(self, received: Received) -> None:
        self.wake = threading.Event()
        self._received = received

    def displace(self) -> None:
        """His place is another's now. He may be waiting for a client that reads nothing."""
        self._received.send_away(
            CallRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, HEALTH_BUSY, "another watcher needs the place: watch again"
            )
        )
        self.wake.set()


def _service(request: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(request).service
    except DecodeError as error:
        raise CallRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, "request_malformed", "no HealthCheckRequest"
        ) from error
