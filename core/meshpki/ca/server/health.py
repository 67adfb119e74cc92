"""The gRPC health checking protocol (grpc.health.v1), for whoever can reach the port: it tells one bit."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.server.calls.methods import CallRefusedError, Method, StreamMethod, anyone
from meshpki.wire import health_pb2
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.server.calls.methods import Call
    from meshpki.ca.server.calls.stream import Stream

SERVICES: Final = ("", CREATE_CERTIFICATE.split("/")[1])
WATCHES_AT_ONCE: Final = 8
"""Each takes a place for as long as it likes, from callers who proved nothing: one more, and the oldest has to go."""
HEALTH_BUSY: Final = "health_busy"
_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Answers for the whole server and for the certificate service alike. Safe for threads."""

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

    def check(self, call: Call, granted: None, request: bytes) -> bytes:  # noqa: ARG002  # a handler's form
        """Answer once. NOT_FOUND for a service that is none of ours."""
        name = _service(request)
        if name not in SERVICES:
            raise CallRefusedError(grpc.StatusCode.NOT_FOUND, "service_unknown", "no such service here")
        return self._answer(name)

    def watch(self, call: Call, granted: None, request: bytes, stream: Stream) -> None:  # noqa: ARG002
        """Answer now, and by `look` at every change, until the caller leaves or others need its place."""
        watcher = _Watcher(_service(request), stream)
        with self._lock:
            self._watchers = [*self._still_there(), watcher]
            displaced = self._watchers[:-WATCHES_AT_ONCE]
            del self._watchers[:-WATCHES_AT_ONCE]
        for each in displaced:
            each.stream.displace(_busy())
            self._said(HEALTH_BUSY)
        self._tell(watcher)
        if self._stopping:
            stream.finish()

    def look(self) -> None:
        """Tell all watchers what is new, and forget those who left. Call it about once a second."""
        with self._lock:
            watchers = self._watchers = self._still_there()
        for watcher in watchers:
            self._tell(watcher)

    def stop(self) -> None:
        """Say NOT_SERVING to all watchers and end their calls."""
        self._stopping = True
        with self._lock:
            watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            self._tell(watcher)
            watcher.stream.finish()

    def _still_there(self) -> list[_Watcher]:
        return [each for each in self._watchers if not each.stream.over]

    def _tell(self, watcher: _Watcher) -> None:
        with self._lock:
            answer = self._answer(watcher.service)
            if answer != watcher.told and watcher.stream.send(answer):
                watcher.told = answer

    def _answer(self, name: str) -> bytes:
        if name not in SERVICES:
            status = _Status.SERVICE_UNKNOWN
        elif self._serving() and not self._stopping:
            status = _Status.SERVING
        else:
            status = _Status.NOT_SERVING
        return _Status(status=status).SerializeToString()


@dataclass(slots=True, eq=False)
class _Watcher:
    """One who watches, and what he was told last."""

    service: str
    stream: Stream
    told: bytes = b""


def _busy() -> CallRefusedError:
    return CallRefusedError(
        grpc.StatusCode.RESOURCE_EXHAUSTED, HEALTH_BUSY, "another watcher needs the place: watch again"
    )


def _service(request: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(request).service
    except DecodeError as error:
        raise CallRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, "request_malformed", "no HealthCheckRequest"
        ) from error
