"""Health and metrics over HTTP."""

from __future__ import annotations

import contextlib
import errno
import socket
import threading
import time
import urllib.error
import urllib.request
from http import HTTPStatus
from http.client import IncompleteRead
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, Counter

from meshpki.errors import MachineError
from meshpki.runtime import http
from meshpki.runtime.http import Answer, HttpServer, health_page, metrics_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


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


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def get(server: HttpServer, path: str, method: str = "GET") -> tuple[int, str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
            return answer.status, answer.read().decode(), answer.headers["Content-Type"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers["Content-Type"]


def raw(server: HttpServer, sent: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
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


@contextlib.contextmanager
def kept(server: HttpServer, number: int, *, drip: bool) -> Iterator[list[socket.socket]]:
    """Connections that never send a whole request: silent ones, or such as send a byte now and then."""
    stop = threading.Event()
    held = [socket.create_connection(("127.0.0.1", server.port), timeout=60) for _ in range(number)]

    def dripping(connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
            while not stop.wait(0.05):
                connection.sendall(b"a")

    threads = [threading.Thread(target=dripping, args=(each,)) for each in held if drip]
    for thread in threads:
        thread.start()
    try:
        yield held
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
        for connection in held:
            connection.close()


def ended(connection: socket.socket) -> bool:
    with contextlib.suppress(ConnectionResetError):
        return connection.recv(1) == b""
    return True


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
@pytest.mark.parametrize("number", [http.CONNECTIONS, 5 * http.CONNECTIONS])
def test_whoever_holds_connections_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch, drip: bool, number: int) -> None:
    monkeypatch.setattr(http, "SECONDS_PER_CONNECTION", 3600.0)
    with serving() as (server, _), kept(server, number, drip=drip) as held:
        for _ in range(20):
            assert get(server, "/livez")[:2] == (200, "ok\n")
        assert all(ended(each) for each in held[: number - http.CONNECTIONS + 1])


@pytest.mark.parametrize("drip", [False, True], ids=["silent", "dripping"])
def test_no_connection_outlasts_its_time_whatever_it_sends(monkeypatch: pytest.MonkeyPatch, drip: bool) -> None:
    monkeypatch.setattr(http, "SECONDS_PER_CONNECTION", 0.5)
    with serving() as (server, _), kept(server, 3, drip=drip) as held:
        assert all(ended(each) for each in held)
        until(lambda: answered(server))  # half a second is little on a busy machine


def answered(server: HttpServer) -> bool:
    try:
        return get(server, "/livez")[0] == HTTPStatus.OK
    except (OSError, IncompleteRead):
        return False


def test_nor_does_one_that_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "SECONDS_PER_CONNECTION", 0.5)
    large = {"/": lambda: Answer(HTTPStatus.OK, b"a" * (32 << 20))}
    with HttpServer("127.0.0.1", 0, large) as server:
        with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            until(lambda: not server._server._connections._since)
        until(lambda: not any("process_request" in thread.name for thread in threading.enumerate()))


def test_pages_may_be_exchanged() -> None:
    with serving() as (server, _):
        server.show({"/other": health_page(lambda: ())})
        assert get(server, "/livez")[0] == HTTPStatus.NOT_FOUND
        assert get(server, "/other")[0] == HTTPStatus.OK


def test_a_port_in_use_is_said() -> None:
    with serving() as (server, _), pytest.raises(MachineError, match="could not listen on") as caught:
        HttpServer("127.0.0.1", server.port, {})
    assert caught.value.todo == "stop what listens there, or name another address in `http`"


@pytest.mark.parametrize("host", ["192.0.2.1", "no host has such a name"])
def test_an_address_that_is_not_this_machine_s_is_said(host: str) -> None:
    with pytest.raises(MachineError, match="could not listen on") as caught:
        HttpServer(host, 0, {}, setting="--http")
    assert caught.value.todo.startswith("name an address of this machine in --http")


def test_close_frees_the_port() -> None:
    with serving() as (server, _):
        pass
    HttpServer("127.0.0.1", server.port, {}).close()


def test_ipv6() -> None:
    try:
        server = HttpServer("::1", 0, {"/livez": health_page(lambda: ())})
    except MachineError:
        pytest.skip("this machine has no IPv6")
    with server, urllib.request.urlopen(f"http://[::1]:{server.port}/livez", timeout=60) as answer:
        assert answer.status == HTTPStatus.OK


def test_a_connection_for_which_there_is_no_file_keeps_nobody_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel says again and again that it waits: a loop over that would take a whole processor."""
    tries, left = 0, 3
    accept = socket.socket.accept

    def without_files(listening: socket.socket) -> tuple[socket.socket, object]:
        nonlocal tries, left
        tries += 1
        if left:
            left -= 1
            raise OSError(errno.EMFILE, "Too many open files")
        return accept(listening)

    monkeypatch.setattr(socket.socket, "accept", without_files)
    with serving() as (server, _):
        began = time.monotonic()
        assert get(server, "/livez")[0] == 200, "it is answered when there is one"
        assert time.monotonic() - began > 3 * http._LOOK_SECONDS - 0.1
    assert tries == 4
