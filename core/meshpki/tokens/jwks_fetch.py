"""One fetch of a JWKS over https: the pinned host and CA, no redirect, no proxy, bounded in size and time."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import urllib3.connection
from urllib3.exceptions import HTTPError
from urllib3.util import Timeout

from meshpki.errors import MachineError, UnavailableError, UsageError
from meshpki.runtime.files import read_capped
from meshpki.tokens.keys import MAX_JWKS_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_CA_BYTES: Final = 1 << 20
_CHUNK: Final = 16 * 1024
_HTTPS_PORT: Final = 443


@dataclass(frozen=True, slots=True)
class JwksEndpoint:
    """Where a cluster's JWKS is served, and by whose authority."""

    host: str
    port: int
    target: str
    """Path and query, as sent."""
    ca_file: Path
    """PEM roots for this host alone; the system's roots are not used. Read at every fetch: CAs rotate."""
    timeout_seconds: float = 5.0
    """For connect, handshake and answer together."""

    @classmethod
    def parse(cls, url: str, ca_file: Path, *, timeout_seconds: float = 5.0) -> JwksEndpoint:
        """Read an https URL. Raises UsageError for another scheme, credentials in it, or no host."""
        try:
            parts = urlsplit(url)
            port = parts.port or _HTTPS_PORT
        except ValueError as error:
            raise UsageError(f"JWKS address {url[:200]!r}", wanted="an https URL") from error
        plain = url.isascii() and url.isprintable() and " " not in url
        if parts.scheme != "https" or not parts.hostname or "@" in parts.netloc or parts.fragment or not plain:
            raise UsageError(f"JWKS address {url[:200]!r}", wanted="https://HOST[:PORT]/PATH, without user or fragment")
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return cls(parts.hostname, port, target, ca_file, timeout_seconds)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"https://{host}:{self.port}{self.target}"


def fetch(endpoint: JwksEndpoint) -> bytes:
    """Fetch the document once, over a connection of its own. Raises UnavailableError, whatever went wrong."""
    try:
        return _fetch(endpoint)
    except (OSError, HTTPError, ValueError, MachineError) as error:
        raise UnavailableError(
            f"the JWKS at {endpoint} could not be fetched: {type(error).__name__}: {str(error)[:200]}",
            todo="check that this machine reaches the address, and that ca_file holds the root of its certificate",
        ) from error


def _fetch(endpoint: JwksEndpoint) -> bytes:
    # urllib3's connection, not its pool: it follows no redirect, retries nothing and reads no proxy variable.
    connection = urllib3.connection.HTTPSConnection(
        endpoint.host,
        endpoint.port,
        timeout=Timeout.resolve_default_timeout(endpoint.timeout_seconds),
        ssl_context=_tls(endpoint.ca_file),
    )
    with contextlib.closing(connection):
        deadline = time.monotonic() + endpoint.timeout_seconds
        connection.connect()
        with _hung_up_after(connection.sock, deadline):
            headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
            connection.request("GET", endpoint.target, headers=headers, preload_content=False, decode_content=False)
            with contextlib.closing(connection.getresponse()) as response:
                if response.status != 200:
                    raise UnavailableError(
                        f"the JWKS at {endpoint} answered with status {response.status}",
                        wanted="200; redirects are not followed",
                    )
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise UnavailableError(f"the JWKS at {endpoint} came compressed", wanted="plain JSON")
                return _read(response, endpoint, deadline)


def _read(response: urllib3.BaseHTTPResponse, endpoint: JwksEndpoint, deadline: float) -> bytes:
    content = bytearray()
    while chunk := response.read1(_CHUNK):
        content += chunk
        if len(content) > MAX_JWKS_BYTES:
            raise UnavailableError(
                f"the JWKS at {endpoint} is larger than {MAX_JWKS_BYTES} bytes", wanted="a JWKS within that size"
            )
    if time.monotonic() >= deadline:
        raise TimeoutError("the answer took too long")
    return bytes(content)


@contextlib.contextmanager
def _hung_up_after(sock: socket.socket, deadline: float) -> Iterator[None]:
    """Cut the connection at the deadline: socket timeouts alone let a server drip bytes for ever."""
    timer = threading.Timer(max(deadline - time.monotonic(), 0), _cut, [sock])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _cut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)


def _tls(ca_file: Path) -> ssl.SSLContext:
    roots = read_capped(ca_file, limit=MAX_CA_BYTES).decode("ascii")
    # Not create_default_context: given an empty file it would trust the roots of the system.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=roots)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context
