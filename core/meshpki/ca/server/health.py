"""The gRPC health checking protocol (grpc.health.v1), for whoever can reach the port: it tells one bit."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.server.methods import CallRefusedError, Method, StreamMethod, anyone
from meshpki.wire import health_pb2
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.ca.server.method_adapter import Received
    from meshpki.ca.server.methods import Call

SERVICES: Final = ("", CREATE_CERTIFICATE.split("/")[1])
CHECKS_AT_ONCE: Final = 8
WATCHES_AT_ONCE: Final = 4
"""Each takes a thread of the server, from callers who proved nothing."""
_POLL_SECONDS: Final = 1.0
_Status = health_pb2.HealthCheckResponse


class HealthService:
    """Answers for the whole server and for the certificate service alike."""

    def __init__(self, serving: Callable[[], bool]) -> None:
        self._serving = serving
        self._checks = threading.BoundedSemaphore(CHECKS_AT_ONCE)
        self._watches = threading.BoundedSemaphore(WATCHES_AT_ONCE)
        self._stopping = threading.Event()

    def methods(self) -> tuple[Method[None], StreamMethod[None]]:
        """Its part of the method table."""
        return (
            Method(HEALTH_CHECK, anyone, self.check, aside=True),
            StreamMethod(HEALTH_WATCH, anyone, self.watch, aside=True),
        )

    def stop(self) -> None:
        """Say NOT_SERVING to all watchers and end their calls."""
        self._stopping.set()

    def check(self, call: Call, granted: None, received: Received) -> bytes:  # noqa: ARG002  # a handler's form
        """Answer once. NOT_FOUND for a service that is none of ours."""
        with _Slot(self._checks):
            name = _service(received())
        if name not in SERVICES:
            raise CallRefusedError(grpc.StatusCode.NOT_FOUND, "service_unknown", "no such service here")
        return self._answer(name)

    def watch(self, call: Call, granted: None, received: Received) -> Iterator[bytes]:  # noqa: ARG002
        """Answer at once and at every change, until the caller leaves or the server stops."""
        with _Slot(self._watches):
            name, last = _service(received()), b""
            while received.alive():
                stopping = self._stopping.is_set()
                answer = self._answer(name)
                if answer != last:
                    yield answer
                    last = answer
                if stopping:
                    return
                self._stopping.wait(_POLL_SECONDS)

    def _answer(self, name: str) -> bytes:
        if name not in SERVICES:
            status = _Status.SERVICE_UNKNOWN
        elif self._serving() and not self._stopping.is_set():
            status = _Status.SERVING
        else:
            status = _Status.NOT_SERVING
        return _Status(status=status).SerializeToString()


class _Slot:
    """One of a few places, or RESOURCE_EXHAUSTED at once."""

    def __init__(self, places: threading.BoundedSemaphore) -> None:
        self._places = places

    def __enter__(self) -> None:
        if not self._places.acquire(blocking=False):
            raise CallRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "health_busy", "too many health calls at once: try again"
            )

    def __exit__(self, *_: object) -> None:
        self._places.release()


def _service(request: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(request).service
    except DecodeError as error:
        raise CallRefusedError(
            grpc.StatusCode.INVALID_ARGUMENT, "request_malformed", "no HealthCheckRequest"
        ) from error
