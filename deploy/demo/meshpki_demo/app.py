"""The workload behind the answering sidecar: it speaks plain HTTP, and tells each caller what the sidecar told it."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Final, Self

from meshpki_demo.bootstrap import LOOPBACK, PEER_HEADERS, Address

if TYPE_CHECKING:
    from types import TracebackType

XFCC: Final = "x-forwarded-client-cert"
SHOWN: Final = (XFCC, *PEER_HEADERS)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # keep-alive, as a real application behind a sidecar has it
    wbufsize = -1  # headers and body in one segment: in two, the second waits for a delayed ACK

    def do_GET(self) -> None:
        """Answer with the headers that the sidecar set, as JSON."""
        body = json.dumps({name: self.headers.get(name, "") for name in SHOWN}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing: the story has its own narrator."""


class EchoApp:
    """Serves on a free loopback port from a thread of this process, until the `with` block ends."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer((LOOPBACK, 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="echo-app", daemon=True)

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address(LOOPBACK, self._server.server_port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
