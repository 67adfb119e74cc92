"""Health and metrics over plain HTTP: /livez, /readyz, /metrics, and nothing else.

Small on purpose: GET and HEAD, no keep-alive, at most sixteen connections at a time and five seconds for each, whatever
it sends and reads meanwhile; when one more comes, the oldest has to go. So whoever can reach the port cannot take more
than that from the process, and keeps nobody from being answered. No secret is ever behind it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self

from meshpki.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from prometheus_client import CollectorRegistry

    Check = Callable[[], tuple[str, ...]]
    """Returns what is wrong now, a line for each; nothing when all is well. Quick: it waits for nobody."""

_LOG = logging.getLogger(__name__)
CONNECTIONS: Final = 16
SECONDS_PER_CONNECTION: Final = 5.0
_LOOK_SECONDS: Final = 0.2
_TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a page answers."""

    status: HTTPStatus
    content: bytes
    content_type: str = _TEXT


def health_page(check: Check) -> Callable[[], Answer]:
    """A page that says `ok` with 200, or what is wrong with 503."""

    def page() -> Answer:
        wrong = check()
        if wrong:
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, "".join(f"{line}\n" for line in wrong).encode())
        return Answer(HTTPStatus.OK, b"ok\n")

    return page


def metrics_page(registry: CollectorRegistry) -> Callable[[], Answer]:
    """A page with everything in `registry`, in Prometheus' text format."""

    def page() -> Answer:
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return Answer(HTTPStatus.OK, generate_latest(registry), CONTENT_TYPE_LATEST)

    return page


def _advice(error: OSError, setting: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"name an address of this machine in {setting}, for example 127.0.0.1 or 0.0.0.0: that name has none"
    match error.errno:
        case errno.EADDRNOTAVAIL:
            return f"name an address of this machine in {setting}, for example 127.0.0.1 or 0.0.0.0"
        case errno.EACCES:
            return f"name a port above 1023 in {setting}: those below need a right of their own"
        case _:
            return f"stop what listens there, or name another address in {setting}"


class HttpServer:
    """Serves fixed pages from threads of its own, from construction to `close`."""

    def __init__(
        self, host: str, port: int, pages: Mapping[str, Callable[[], Answer]], *, setting: str = "`http`"
    ) -> None:
        """Listen at once; port 0 takes a free one. Raises MachineError when the port cannot be had.

        `setting` is where whoever reads that error said the address.
        """
        try:
            self._server = _Server(host, port, pages)
        except OSError as error:
            raise MachineError(
                f"could not listen on {host}:{port} for health and metrics: {error.strerror or error}",
                todo=_advice(error, setting),
            ) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_LOOK_SECONDS,), name="http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._server.server_address[1])

    def show(self, pages: Mapping[str, Callable[[], Answer]]) -> None:
        """Serve these from now on, and no others."""
        self._server.pages = pages

    def close(self) -> None:
        """Stop listening. Idempotent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, host: str, port: int, pages: Mapping[str, Callable[[], Answer]]) -> None:
        self.pages = pages
        self._connections = _Connections()
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        """Bind, without the look-up of a host name that the base class does."""
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, object]:
        """Take a connection. Where there is no file left for it the next look is a moment later, not at once."""
        try:
            return super().get_request()
        except OSError:
            time.sleep(_LOOK_SECONDS)
            raise

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        """Give the connection to a thread."""
        assert isinstance(request, socket.socket)
        self._connections.add(request, time.monotonic())
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """Close the connection, in the thread that served it."""
        assert isinstance(request, socket.socket)
        self._connections.discard(request)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Look after connections: after each that comes, and some times a second."""
        self._connections.look(time.monotonic())

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  # the base class's form
        _LOG.debug("a connection for health or metrics broke off", exc_info=True)


class _Connections:
    """Those that are open, and since when. A timeout of the socket would not do: it begins anew with every byte."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._since: dict[socket.socket, float] = {}  # the oldest first

    def add(self, connection: socket.socket, now: float) -> None:
        """One more; the oldest goes when there are too many."""
        with self._lock:
            self._since[connection] = now
            if len(self._since) > CONNECTIONS:
                self._cut(next(iter(self._since)))

    def discard(self, connection: socket.socket) -> None:
        """It is about to be closed."""
        with self._lock:
            self._since.pop(connection, None)

    def look(self, now: float) -> None:
        """Cut those whose time is over."""
        with self._lock:
            for connection in [each for each, since in self._since.items() if now - since > SECONDS_PER_CONNECTION]:
                self._cut(connection)

    def _cut(self, connection: socket.socket) -> None:
        """End it for the thread that reads or writes it, which closes it then."""
        del self._since[connection]
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    server_version = "meshpki"
    sys_version = ""
    server: _Server

    def do_GET(self) -> None:
        """Answer with a page."""
        answer = self._answer()
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.content)

    def do_HEAD(self) -> None:
        """Answer with a page's headers."""
        self.do_GET()

    def _answer(self) -> Answer:
        page = self.server.pages.get(self.path.partition("?")[0])
        if page is None:
            return Answer(HTTPStatus.NOT_FOUND, "".join(f"{path}\n" for path in sorted(self.server.pages)).encode())
        try:
            return page()
        except Exception:  # noqa: BLE001  # whatever fails must not end the thread unseen
            _LOG.exception("a page failed", extra={"page": self.path[:80]})
            return Answer(HTTPStatus.INTERNAL_SERVER_ERROR, b"failed: see the log\n")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        _LOG.debug("http %s", format % args)
