"""Health and metrics over HTTP."""

from __future__ import annotations

import contextlib
import socket
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter

from meshpki.errors import MachineError
from meshpki.runtime import http
from meshpki.runtime.http import Answer, HttpServer, health_page, metrics_page

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextlib.contextmanager
def serving(wrong: tuple[str, ...] = ()) -> Iterator[tuple[HttpServer, list[str]]]:
    registry = CollectorRegistry()
    Counter("cats", "Cats seen", registry=registry).inc(3)
    complaints = list(wrong)

    def broken() -> Answer:
        raise RuntimeError("a page's own fault")

    pages = {
        "/livez": health_page(lambda: ()),
        "/readyz": health_page(lambda: tuple(complaints)),
        "/metrics": metrics_page(registry),
        "/broken": broken,
    }
    with HttpServer("127.0.0.1", 0, pages) as server:
        yield server, complaints


def get(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Content-Type"]


def raw(server: HttpServer, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(sent)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while part := connection.recv(4096):
                received += part
        return received


def test_pages() -> None:
    with serving() as (server, complaints):
        assert get(server, "/livez")[:2] == (200, "ok\n")
        assert get(server, "/readyz?verbose")[:2] == (200, "ok\n")
        complaints += ["audit: full", "keys: none"]
        assert get(server, "/readyz")[:2] == (503, "audit: full\nkeys: none\n")
        status, text, kind = get(server, "/metrics")
        assert (status, "cats_total 3.0" in text, kind.startswith("text/plain")) == (200, True, True)
        assert get(server, "/livez", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize("path", ["/", "/livez/", "/../etc/passwd", "/metrics%00"])
def test_nothing_else_is_there(path: str) -> None:
    with serving() as (server, _):
        assert get(server, path)[0] == HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_no_other_method(method: str) -> None:
    with serving() as (server, _):
        assert get(server, "/livez", method)[0] == HTTPStatus.NOT_IMPLEMENTED


def test_a_page_that_fails_says_so_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    with serving() as (server, _):
        status, text, _ = get(server, "/broken")
        assert (status, "own fault" in text) == (500, False)
        assert "a page failed" in caplog.text
        assert get(server, "/livez")[0] == HTTPStatus.OK


@pytest.mark.parametrize(
    "sent", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01" * 50, b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n"]
)
def test_what_is_no_http(sent: bytes) -> None:
    with serving() as (server, _):
        assert b" 200 " not in raw(server, sent)
        assert get(server, "/livez")[0] == HTTPStatus.OK


def test_the_answer_names_no_version() -> None:
    with serving() as (server, _):
        answer = raw(server, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"Python" not in answer


def test_idle_connections_cannot_take_the_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http._Handler, "timeout", 0.5)
    with serving() as (server, _):
        idle = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(http.CONNECTIONS)]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, urllib.error.URLError):
                if get(server, "/livez")[0] == HTTPStatus.OK:
                    break
        else:
            pytest.fail("idle connections were not dropped")
        for connection in idle:
            connection.close()


def test_a_port_in_use_is_said() -> None:
    with serving() as (server, _), pytest.raises(MachineError, match="could not listen on") as caught:
        HttpServer("127.0.0.1", server.port, {})
    assert "another address" in caught.value.todo


def test_close_frees_the_port() -> None:
    with serving() as (server, _):
        pass
    HttpServer("127.0.0.1", server.port, {}).close()


def test_ipv6() -> None:
    try:
        server = HttpServer("::1", 0, {"/livez": health_page(lambda: ())})
    except MachineError:
        pytest.skip("this machine has no IPv6")
    with server, urllib.request.urlopen(f"http://[::1]:{server.port}/livez", timeout=10) as answer:
        assert answer.status == HTTPStatus.OK
