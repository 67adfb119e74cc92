"""A download host on this machine, with archives that hold what a test wants."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from support.kube_assets.archive import MEMBER
from support.kube_assets.releases import Release

if TYPE_CHECKING:
    from collections.abc import Iterator


def script(release: str = Release.MODERN) -> bytes:
    """A program that says it is that release."""
    return f"#!/bin/sh\necho Kubernetes {release}\n".encode()


def packed(content: bytes | None = None, member: str = MEMBER, kind: bytes = tarfile.REGTYPE) -> bytes:
    """An archive with one member."""
    data = script() if content is None else content
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        entry = tarfile.TarInfo(member)
        entry.type = kind
        entry.size = len(data) if kind == tarfile.REGTYPE else 0
        archive.addfile(entry, io.BytesIO(data))
    return out.getvalue()


@dataclass
class Host:
    """What is served under which path; `cut` says after how many bytes an answer breaks off."""

    files: dict[str, bytes] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    def publish(self, release: str, archive: bytes, *algorithms: str) -> str:
        """Serve an archive with its hashes; its path."""
        path = f"/{release}/kubernetes-server-linux-amd64.tar.gz"
        self.files[path] = archive
        for algorithm in algorithms:
            self.files[f"{path}.{algorithm}"] = hashlib.new(algorithm, archive).hexdigest().encode()
        return path


@contextlib.contextmanager
def serving() -> Iterator[Host]:
    """A host until the block ends."""
    host = Host()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
            pass

        def do_GET(self) -> None:
            host.asked.append(self.path)
            data = host.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: host.cut.get(self.path)])

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        host.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join()
