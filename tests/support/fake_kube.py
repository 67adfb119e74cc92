"""An https server on loopback that answers as an API server would, or worse, as a test's script says."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.jwks_server import certificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    Script = Callable[["Call"], None]


class Call(http.server.BaseHTTPRequestHandler):
    """One request, and the means to answer it in any way."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    body = b""

    def setup(self) -> None:
        super().setup()
        assert isinstance(self.server, _Server)
        self.owner = self.server.owner
        self.owner.connections += 1

    def answer(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)

    def status(self, code: int, message: str = "", **fields: object) -> None:
        self.answer(code, {"kind": "Status", "apiVersion": "v1", "code": code, "message": message, **fields})

    def stream(self) -> None:
        """Begin a chunked answer; `event` and `end` go on."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()

    def event(self, kind: str, item: object) -> None:
        self.chunk(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def end(self) -> None:
        self.wfile.write(b"0\r\n\r\n")

    def hang_up(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def wait(self) -> None:
        """Until the test is over."""
        self.close_connection = True
        self.owner.finished.wait(60)

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.owner.seen.append(
            Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, self.body)
        )
        self.owner.script(self)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815  # names by http.server

    def log_message(self, *args: object) -> None:
        """Nothing to say."""


@dataclass(frozen=True)
class Seen:
    """One request as it came."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    owner: FakeKube

    def handle_error(self, *args: object) -> None:
        """Clients that hang up are what some tests are about."""


@dataclass
class FakeKube:
    """Where it listens, whose root signs it, what it was asked, and what it answers."""

    url: str
    root: Path
    context: ssl.SSLContext
    script: Script
    seen: list[Seen] = field(default_factory=list)
    connections: int = 0
    finished: threading.Event = field(default_factory=threading.Event)

    def answers(self, *scripts: Script) -> None:
        """One script per request, the last one for all that follow."""
        waiting = list(scripts)

        def step(call: Call) -> None:
            (waiting.pop(0) if len(waiting) > 1 else waiting[0])(call)

        self.script = step


@contextlib.contextmanager
def serving(
    directory: Path, *, host: str = "127.0.0.1", hours_ago: int = 0, client_ca: Path | None = None
) -> Iterator[FakeKube]:
    """A server with a certificate of a root of its own, until the block ends; `client_ca`: asks for certificates."""
    root_file, chain_file = certificate(directory, "kube", host=host, hours_ago=hours_ago)
    server = _Server(("127.0.0.1", 0), Call)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain_file)
    if client_ca is not None:
        context.load_verify_locations(client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    owner = FakeKube(
        f"https://127.0.0.1:{server.server_port}", root_file, context, lambda call: call.answer(200, {"kind": "Yes"})
    )
    server.owner = owner
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield owner
    finally:
        owner.finished.set()
        server.shutdown()
        thread.join()
        server.server_close()
