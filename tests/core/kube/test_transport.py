"""Requests on a real TLS connection: tries, pauses, deadlines, sizes, 401, and every way not to reach a server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from urllib3.util import Retry

from meshpki.kube import authenticator, pool, transport
from meshpki.kube.access import Access, explicit
from meshpki.kube.client import KubeClient
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenText
from meshpki.kube.errors import (
    KubeAnswerError,
    KubeCredentialError,
    KubeError,
    KubeForbiddenError,
    KubeUnauthorizedError,
    KubeUnreachableError,
    Unreachable,
)
from support.fake_kube import Call, FakeKube, serving
from support.jwks_server import certificate
from support.kubeconfigs import SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.kube.answer import Answer

QUICK = transport.RETRY.new(backoff_factor=0.01, backoff_jitter=0)


@pytest.fixture
def kube(tmp_path: Path) -> Iterator[FakeKube]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture
def access(kube: FakeKube) -> Access:
    return Access(kube.url, kube.root.read_bytes(), TokenText(SECRET), where="context 'test'")


@pytest.fixture
def client(access: Access) -> Iterator[KubeClient]:
    with KubeClient(access, retry=QUICK, timeout_seconds=60) as made:
        yield made


def status(code: int, **headers: str) -> Callable[[Call], None]:
    return lambda call: call.answer(code, {"kind": "Status", "code": code}, **headers)


def hang_up(call: Call) -> None:
    call.hang_up()


# --- what is sent, and what comes back


def test_requests_share_a_connection_and_carry_the_token(kube: FakeKube, client: KubeClient) -> None:
    answer = client.request("POST", "/x", {"a": 1}, query={"q": "a b&c"})
    assert (answer.status, json.loads(answer.body)) == (200, {"kind": "Yes"})
    assert answer.headers["content-length"] == str(len(answer.body))
    assert SECRET not in repr(answer)
    client.request("GET", "/x")
    client.request("DELETE", "/x")
    sent = kube.seen[0]
    assert (sent.method, sent.path, json.loads(sent.body)) == ("POST", "/x?q=a+b%26c", {"a": 1})
    assert sent.token == f"Bearer {SECRET}"
    assert sent.headers["content-type"] == "application/json"
    assert kube.connections == 1


def test_no_status_is_an_error(kube: FakeKube, client: KubeClient) -> None:
    for code in (204, 301, 400, 401, 403, 404, 409, 422, 500):
        kube.script = status(code) if code != 204 else lambda call: call.answer(204)
        assert client.request("GET", "/x", retry=False).status == code


def test_redirects_are_not_followed(kube: FakeKube, client: KubeClient) -> None:
    kube.script = status(302, Location="https://evil.example/")
    assert client.request("GET", "/x").status == 302
    with pytest.raises(KubeAnswerError, match="a redirect, which is not followed"):
        client.get("/x")
    assert len(kube.seen) == 2


def test_a_prefix_of_the_server_is_kept(kube: FakeKube, access: Access) -> None:
    with KubeClient(dataclasses.replace(access, server=f"{kube.url}/k8s/clusters/c-1/"), timeout_seconds=60) as client:
        client.request("GET", "/version")
    assert kube.seen[0].path == "/k8s/clusters/c-1/version"


def test_no_proxy_variable_is_obeyed(kube: FakeKube, access: Access, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with KubeClient(access, timeout_seconds=60) as client:
        assert client.request("GET", "/x").status == 200


# --- again


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_what_may_be_sent_twice_is(method: str, code: int, kube: FakeKube, client: KubeClient) -> None:
    kube.answers(status(code), status(code), status(200))
    assert client.request(method, "/x").status == 200
    assert len(kube.seen) == 3


@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_what_may_not_be_is_sent_twice_only_where_asked(method: str, kube: FakeKube, client: KubeClient) -> None:
    kube.answers(status(503, Retry_After="0"), status(200))
    assert client.request(method, "/x", {}).status == 503
    assert client.request(method, "/x", {}).status == 200
    kube.answers(status(503), status(200))
    assert client.request(method, "/x", {}, repeatable=True).status == 200


def test_a_review_may_be_sent_twice(kube: FakeKube, client: KubeClient) -> None:
    for path in (
        "/apis/authentication.k8s.io/v1/tokenreviews",
        "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
        "/apis/authorization.k8s.io/v1/namespaces/a/localsubjectaccessreviews",
    ):
        kube.answers(status(503), status(201))
        assert client.request("POST", path, {}).status == 201
        kube.answers(status(503), status(201))
        assert client.request("POST", path, {}, retry=False).status == 503
    for path in ("/apis/acme.test/v1/reviews", "/api/v1/namespaces/a/serviceaccounts/b/token"):
        kube.answers(status(503), status(201))
        assert client.request("POST", path, {}).status == 503


def test_what_was_shed_is_sent_again_whatever_it_is(kube: FakeKube, client: KubeClient) -> None:
    shed = status(429, Retry_After="0")
    for method in ("POST", "PATCH"):
        kube.answers(shed, shed, status(201))
        assert client.request(method, "/x", {}).status == 201
    kube.answers(status(429), status(201))
    assert client.request("POST", "/x", {}).status == 429, "nobody says that it was shed before it was looked at"
    kube.answers(shed, status(201))
    assert client.request("POST", "/x", {}, retry=False).status == 429
    kube.answers(shed)
    assert client.request("POST", "/x", {}).status == 429, "not for ever"


def test_without_retry_everything_is_sent_once(kube: FakeKube, client: KubeClient) -> None:
    kube.answers(status(503, Retry_After="0"), status(200))
    assert client.request("GET", "/x", retry=False).status == 503
    assert len(kube.seen) == 1


def test_tries_end_and_the_last_answer_is_returned(kube: FakeKube, client: KubeClient) -> None:
    kube.script = status(503)
    assert client.request("GET", "/x").status == 503
    assert len(kube.seen) == 5


def test_retry_after_is_kept_to(kube: FakeKube, client: KubeClient) -> None:
    kube.answers(status(429, Retry_After="1"), status(200))
    began = time.monotonic()
    assert client.request("GET", "/x").status == 200
    assert time.monotonic() - began >= 0.9


def test_a_retry_after_that_is_a_date_is_kept_to(kube: FakeKube, client: KubeClient) -> None:
    then = int(time.time()) + 2
    kube.answers(status(429, Retry_After=formatdate(then, usegmt=True)), status(200))
    assert client.request("GET", "/x").status == 200
    assert time.time() >= then - 0.1


def test_a_retry_after_past_the_deadline_is_not_waited_for(kube: FakeKube, client: KubeClient) -> None:
    kube.script = status(429, Retry_After="3600")
    began = time.monotonic()
    assert client.request("GET", "/x", timeout=60).status == 429
    assert time.monotonic() - began < 59
    assert len(kube.seen) == 1


def test_a_retry_after_of_nonsense_is_our_own_pause(kube: FakeKube, client: KubeClient) -> None:
    kube.answers(status(429, Retry_After="soon"), status(200))
    assert client.request("GET", "/x").status == 200


def test_closing_ends_a_pause(kube: FakeKube, client: KubeClient) -> None:
    kube.script = status(429, Retry_After="120")
    threading.Thread(target=lambda: _when(lambda: bool(kube.seen), client.close), daemon=True).start()
    began = time.monotonic()
    assert client.request("GET", "/x", timeout=150).status == 429
    assert time.monotonic() - began < 110


def _when(condition: Callable[[], bool], act: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    act()


def test_a_connection_that_is_cut_is_tried_again_where_that_is_safe(kube: FakeKube, client: KubeClient) -> None:
    kube.answers(hang_up, status(200))
    assert client.request("GET", "/x").status == 200
    kube.answers(hang_up, status(200))
    with pytest.raises(KubeUnreachableError) as caught:
        client.request("POST", "/x", {})
    assert caught.value.why is Unreachable.CUT


def test_a_kept_connection_that_the_server_closed_is_not_used_for_a_post(kube: FakeKube, client: KubeClient) -> None:
    closed = threading.Semaphore(0)

    def script(call: Call) -> None:
        call.answer(200, {})
        call.hang_up()
        closed.release()

    kube.script = script
    for _ in range(20):
        assert client.request("POST", "/x", {}, retry=False).status == 200
        assert closed.acquire(timeout=60)
    assert kube.connections == 20


# --- a credential program takes its time


@pytest.fixture
def slow(kube: FakeKube, tmp_path: Path) -> Access:
    """A program that needs longer for its token than a request may take; each run brings another one."""
    program = tmp_path / "login"
    answer = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    program.write_text(
        f"#!{sys.executable} -I\nimport json, time\ntime.sleep({SLOW_SECONDS})\n"
        f"print(json.dumps({answer!r} | dict(status=dict(token=str(time.time())))))\n"
    )
    program.chmod(0o700)
    plugin = ExecPlugin(program, answer["apiVersion"])
    return Access(kube.url, kube.root.read_bytes(), plugin, where="context 'test'")


SLOW_SECONDS = 2.5
REQUEST_SECONDS = 2.0


def in_time(ask: Callable[[], Answer]) -> int:
    """The status of an answer. A machine may stand still for as long as a request may take, but not each time."""
    for _ in range(5):
        with contextlib.suppress(KubeUnreachableError):
            return ask().status
    return ask().status


def test_a_slow_program_takes_nothing_from_the_requests_time(kube: FakeKube, slow: Access) -> None:
    def ask() -> Answer:
        with KubeClient(slow, timeout_seconds=REQUEST_SECONDS) as client:  # which has no token yet
            return client.request("GET", "/x")

    assert in_time(ask) == 200
    assert kube.seen[0].token.startswith("Bearer 1")


def test_a_slow_import_takes_nothing_from_the_requests_time(
    kube: FakeKube, access: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = pool.make

    def slow_make(*arguments: Any) -> Any:  # Any: passed on as they are
        time.sleep(SLOW_SECONDS)
        return make(*arguments)

    def ask() -> Answer:
        with KubeClient(access, timeout_seconds=REQUEST_SECONDS) as client:
            return client.request("GET", "/x")

    monkeypatch.setattr(pool, "make", slow_make)
    assert in_time(ask) == 200


def test_a_slow_program_that_runs_again_after_a_401_takes_nothing_either(
    kube: FakeKube, slow: Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authenticator, "_PLUGIN_PAUSE_SECONDS", 0.0)

    def ask() -> Answer:
        kube.answers(status(401), status(200))
        kube.seen.clear()
        with KubeClient(slow, timeout_seconds=REQUEST_SECONDS) as client:
            return client.request("GET", "/x")

    assert in_time(ask) == 200
    assert len({seen.token for seen in kube.seen}) == 2


def test_a_slow_program_takes_nothing_from_a_watchs_time(kube: FakeKube, slow: Access) -> None:
    def ask() -> None:
        kube.script = lambda call: call.answer(200, {"items": [], "metadata": {"resourceVersion": "1"}})
        with KubeClient(slow, timeout_seconds=REQUEST_SECONDS) as client, client.watch("/api/v1/pods") as watch:
            watch.poll(1)
            client._transport._authenticator._last = None  # as if it had expired
            kube.script = status(403)
            watch.poll(60)

    for _ in range(5):
        with pytest.raises(KubeError) as caught:
            ask()
        if not isinstance(caught.value, KubeUnreachableError):  # see `in_time`
            break
    assert isinstance(caught.value, KubeForbiddenError)


def test_a_request_after_a_slow_program_has_its_own_time_and_no_more(kube: FakeKube, slow: Access) -> None:
    kube.script = Call.wait
    for _ in range(5):
        with KubeClient(slow, timeout_seconds=REQUEST_SECONDS) as client:
            with pytest.raises(KubeUnreachableError) as caught:
                client.request("GET", "/x")
            assert caught.value.why is Unreachable.TIMEOUT
        if kube.seen:  # see `in_time`
            break
    assert len(kube.seen) == 1


# --- 401


def test_a_401_is_asked_again_with_what_the_file_has_by_now(kube: FakeKube, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")

    def script(call: Call) -> None:
        token.write_text("new")
        call.answer(200 if call.headers["Authorization"] == "Bearer new" else 401)

    kube.script = script
    with KubeClient(explicit(kube.url, kube.root, token), timeout_seconds=60) as client:
        assert client.request("POST", "/x", {}, retry=False).status == 200
    assert [seen.token for seen in kube.seen] == ["Bearer old", "Bearer new"]


def test_a_401_for_the_only_token_there_is_is_asked_once(kube: FakeKube, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("only")
    kube.script = status(401)
    with KubeClient(explicit(kube.url, kube.root, token), timeout_seconds=60) as client:
        assert client.request("GET", "/x").status == 401
        assert len(kube.seen) == 1
        with pytest.raises(KubeUnauthorizedError, match=rf"to do: put a fresh token into {token}; it is read again"):
            client.get("/api/v1/pods")


# --- bounds


def test_an_answer_that_is_too_large_is_refused(
    kube: FakeKube, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_BODY_BYTES", 1000)
    kube.script = lambda call: call.answer(200, b"x" * 1001)
    with pytest.raises(KubeAnswerError, match="is larger than 1000 bytes"):
        client.request("GET", "/x")
    kube.script = lambda call: call.answer(200, b"x" * 1000)
    assert len(client.request("GET", "/x").body) == 1000


def test_a_compressed_answer_is_refused(kube: FakeKube, client: KubeClient) -> None:
    kube.script = lambda call: call.answer(200, b"x", Content_Encoding="gzip")
    with pytest.raises(KubeAnswerError, match="came compressed"):
        client.request("GET", "/x")


def drip_body(call: Call) -> None:
    call.stream()
    with contextlib.suppress(OSError):
        while not call.owner.finished.wait(0.05):
            call.chunk(b" ")


def drip_head(call: Call) -> None:
    call.close_connection = True
    with contextlib.suppress(OSError):
        call.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        while not call.owner.finished.wait(0.05):
            call.wfile.write(b"x")


def drip_chunk_size(call: Call) -> None:
    call.stream()
    with contextlib.suppress(OSError):
        while not call.owner.finished.wait(0.05):
            call.wfile.write(b"0")


@pytest.mark.parametrize("script", [Call.wait, drip_body, drip_head, drip_chunk_size])
def test_a_server_that_takes_its_time_does_not_take_ours(
    script: Callable[[Call], None], kube: FakeKube, client: KubeClient
) -> None:
    kube.script = script
    began = time.monotonic()
    with pytest.raises(KubeUnreachableError) as caught:
        client.request("GET", "/x", timeout=0.5)
    assert caught.value.why is Unreachable.TIMEOUT
    assert time.monotonic() - began < 50


def test_a_handshake_that_drips_does_not_take_our_time(access: Access) -> None:
    over = threading.Event()

    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            peer, _ = listener.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"\x16\x03\x03\x40\x00")
                while not over.wait(0.05):
                    peer.sendall(b"\x02")

    with socket.create_server(("127.0.0.1", 0)) as slow:
        threading.Thread(target=serve, args=(slow,), daemon=True).start()
        address = f"https://127.0.0.1:{slow.getsockname()[1]}"
        began = time.monotonic()
        client = KubeClient(dataclasses.replace(access, server=address))
        with client, pytest.raises(KubeUnreachableError) as caught:
            client.request("GET", "/x", timeout=0.5)
        over.set()
        assert caught.value.why is Unreachable.TIMEOUT
        assert time.monotonic() - began < 50


def test_the_deadline_is_for_all_tries_together(kube: FakeKube, access: Access) -> None:
    kube.script = status(503)
    with KubeClient(access, retry=Retry(1000, backoff_factor=0.05, status_forcelist=[503])) as client:
        began = time.monotonic()
        assert in_time(lambda: client.request("GET", "/x", timeout=1)) == 503
        assert time.monotonic() - began < 100


HEAD = b"HTTP/1.1 200 OK\r\nX: y\r\n"
CUT_ANSWERS = [
    b"",
    b"HTTP/1.1 200",
    b"HTTP/1.1 200 OK\r\n",
    HEAD,
    HEAD + b"Content-Length: 10\r\n",
    HEAD + b"Content-Length: 10\r\n\r\n",
    HEAD + b"Content-Length: 10\r\n\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n9\r\n{}",
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n{}",
    HEAD + b"\r\n{}",
    b"SSH-2.0-OpenSSH\r\n",
]


@pytest.mark.parametrize("sent", CUT_ANSWERS)
def test_half_an_answer_is_none(sent: bytes, kube: FakeKube, client: KubeClient) -> None:
    def script(call: Call) -> None:
        call.wfile.write(sent)
        call.hang_up()

    kube.script = script
    with pytest.raises(KubeUnreachableError) as caught:
        client.request("GET", "/x", retry=False)
    assert caught.value.why is Unreachable.CUT


# --- the ways not to reach a server


@pytest.fixture
def nobody() -> Iterator[str]:
    """An address where nobody listens, nor can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"https://127.0.0.1:{taken.getsockname()[1]}"


def _why(access: Access, *says: str) -> Unreachable:
    with KubeClient(access, retry=QUICK, timeout_seconds=60) as client, pytest.raises(KubeUnreachableError) as caught:
        client.request("GET", "/version")
    text = str(caught.value)
    assert text.startswith(f"no answer from {access}: ")
    assert caught.value.todo
    assert "\n" not in text
    assert SECRET not in text
    for part in says:
        assert part in text
    return caught.value.why


def test_nobody_listens(access: Access, nobody: str) -> None:
    assert _why(dataclasses.replace(access, server=nobody), "nothing listens there") is Unreachable.REFUSED


def test_a_name_that_nobody_knows(access: Access) -> None:
    assert _why(dataclasses.replace(access, server="https://kube.invalid"), "DNS") is Unreachable.NAME


def test_nobody_answers(access: Access) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=1) as silent:
        address = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with KubeClient(dataclasses.replace(access, server=address), timeout_seconds=60) as client:
            with pytest.raises(KubeUnreachableError, match="firewalls") as caught:
                client.request("GET", "/version", timeout=0.3)
            assert caught.value.why is Unreachable.TIMEOUT


def test_another_authority(access: Access, tmp_path: Path) -> None:
    foreign, _ = certificate(tmp_path, "foreign")
    other = dataclasses.replace(access, ca_pem=foreign.read_bytes())
    assert _why(other, "an authority that was not named", "fetch the kubeconfig again") is Unreachable.TLS_CA


def test_the_systems_roots_do_not_count_beside_named_ones_nor_alone(access: Access) -> None:
    assert _why(dataclasses.replace(access, ca_pem=None)) is Unreachable.TLS_CA


def test_another_name(access: Access, tmp_path: Path) -> None:
    other = tmp_path / "named"
    other.mkdir()
    with serving(other, host="kube.example") as server:
        named = dataclasses.replace(access, server=server.url, ca_pem=server.root.read_bytes())
        assert _why(named, "tls-server-name") is Unreachable.TLS_NAME
        with KubeClient(dataclasses.replace(named, tls_server_name="kube.example"), timeout_seconds=60) as client:
            assert client.request("GET", "/x").status == 200


def test_an_expired_certificate(access: Access, tmp_path: Path) -> None:
    other = tmp_path / "old"
    other.mkdir()
    with serving(other, hours_ago=24) as server:
        old = dataclasses.replace(access, server=server.url, ca_pem=server.root.read_bytes())
        assert _why(old, "expired", "kubeadm certs renew") is Unreachable.TLS_TIME


def test_a_server_without_tls(access: Access) -> None:
    def serve(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listener.accept()
                with peer:
                    peer.recv(4096)
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\nClient sent an HTTPS request to an HTTP server")

    with socket.create_server(("127.0.0.1", 0)) as plain:
        threading.Thread(target=serve, args=(plain,), daemon=True).start()
        address = f"https://127.0.0.1:{plain.getsockname()[1]}"
        assert _why(dataclasses.replace(access, server=address), "speaks no TLS", "6443") is Unreachable.NO_TLS
        plain.shutdown(socket.SHUT_RDWR)


def test_old_tls_is_not_spoken(access: Access, kube: FakeKube) -> None:
    with pytest.warns(DeprecationWarning):
        kube.context.maximum_version = ssl.TLSVersion.TLSv1_1
        kube.context.minimum_version = ssl.TLSVersion.TLSv1_1
    _why(access)


def test_a_proxy_in_the_environment_is_mentioned(access: Access, nobody: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    _why(dataclasses.replace(access, server=nobody), "HTTPS_PROXY is set, but proxies are not used")


def test_roots_that_were_replaced_are_read_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    roots, new = tmp_path / "ca.crt", tmp_path / "new"
    new.mkdir()
    with serving(tmp_path) as before:
        shutil.copy(before.root, roots)
        access = explicit(before.url, roots, tmp_path / "token")
    with (
        serving(new) as server,
        KubeClient(dataclasses.replace(access, server=server.url), timeout_seconds=60) as client,
    ):
        with pytest.raises(KubeUnreachableError):
            client.request("GET", "/x")
        roots.write_text("-----BEGIN CERTIFICATE-----\nhalf a file")
        with pytest.raises(KubeUnreachableError):
            client.request("GET", "/x")
        shutil.copy(server.root, roots)
        assert client.request("POST", "/x", {}).status == 200


# --- client certificates


def _pair(directory: Path) -> tuple[Path, bytes, bytes]:
    root, chain = certificate(directory, "clients")
    text = chain.read_bytes()
    at = text.index(b"-----BEGIN PRIVATE KEY")
    return root, text[:at], text[at:]


def test_a_client_certificate_is_presented_and_its_key_is_on_no_disk(
    access: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, cert, key = _pair(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    (tmp_path / "server").mkdir()
    opened = len(list(Path("/proc/self/fd").iterdir()))
    with serving(tmp_path / "server", client_ca=root) as server:
        mine = Access(server.url, server.root.read_bytes(), ClientCertificate(cert, key))
        with KubeClient(mine, timeout_seconds=60) as client:
            assert client.request("GET", "/x").status == 200
            assert "authorization" not in server.seen[0].headers
        assert _why(dataclasses.replace(access, server=server.url, ca_pem=server.root.read_bytes())) in {
            Unreachable.TLS_CLIENT,
            Unreachable.CUT,
        }
    assert not list((tmp_path / "tmp").iterdir())
    _when(
        lambda: len(list(Path("/proc/self/fd").iterdir())) <= opened + 2, lambda: None
    )  # the server's own threads end
    assert len(list(Path("/proc/self/fd").iterdir())) <= opened + 2


def test_a_certificate_that_was_renewed_is_presented_without_a_restart(tmp_path: Path) -> None:
    root, cert, key = _pair(tmp_path)
    cert_file = tmp_path / "client.crt"
    cert_file.write_bytes(cert)
    (tmp_path / "server").mkdir()
    with serving(tmp_path / "server", client_ca=root) as server:
        mine = Access(server.url, server.root.read_bytes(), ClientCertificate(NamedFile(cert_file), key))
        with KubeClient(mine, timeout_seconds=60) as client:
            client.request("GET", "/x")
            _, other, other_key = _pair(tmp_path)
            cert_file.write_bytes(other)
            deadline = time.monotonic() + 60
            with pytest.raises(KubeCredentialError, match=r"cannot be used.*of its own key"):
                while time.monotonic() < deadline:
                    client.request("GET", "/x")
            assert other_key != key


@pytest.mark.parametrize("kind", ["garbage", "encrypted", "foreign", "empty"])
def test_a_key_that_does_not_fit_is_an_error_and_no_question(kind: str, access: Access, tmp_path: Path) -> None:
    _, cert, key = _pair(tmp_path)
    _, _, foreign = _pair(tmp_path)
    wrong = {
        "garbage": b"-----BEGIN PRIVATE KEY-----\n" + SECRET.encode() + b"\n-----END PRIVATE KEY-----\n",
        "encrypted": _encrypted(key),
        "foreign": foreign,
        "empty": b"",
    }[kind]
    with KubeClient(
        dataclasses.replace(access, credential=ClientCertificate(cert, wrong)), timeout_seconds=60
    ) as client:
        with pytest.raises(
            KubeCredentialError, match="the client certificate of context 'test' cannot be used"
        ) as caught:
            client.request("GET", "/x")
        assert SECRET not in f"{caught.value} {caught.value.__context__!r}"


def _encrypted(key: bytes) -> bytes:
    return serialization.load_pem_private_key(key, None).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"x")
    )


def test_nobody_is_asked_for_a_password_at_the_terminal(tmp_path: Path) -> None:
    _, cert, key = _pair(tmp_path)
    (tmp_path / "cert").write_bytes(cert)
    (tmp_path / "key").write_bytes(_encrypted(key))
    code = """
import fcntl, pathlib, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # a terminal of our own
from meshpki.kube import tls
from meshpki.kube.authenticator import KeyPair
from meshpki.kube.errors import KubeCredentialError
try:
    tls.context(None, KeyPair(*(pathlib.Path(name).read_bytes() for name in sys.argv[1:])), "the test")
except KubeCredentialError:
    print("refused")
"""
    ours, theirs = os.openpty()
    with os.fdopen(ours, "rb", buffering=0), os.fdopen(theirs, "rb", buffering=0) as terminal:
        argv = [sys.executable, "-c", code, str(tmp_path / "cert"), str(tmp_path / "key")]
        done = subprocess.run(
            argv, stdin=terminal, stdout=subprocess.PIPE, start_new_session=True, timeout=60, check=True
        )
    assert done.stdout == b"refused\n"


# --- many at once


def test_many_threads_share_one_client(kube: FakeKube, access: Access) -> None:
    failures: list[BaseException] = []
    with KubeClient(access, pool=4, timeout_seconds=60) as client:

        def work() -> None:
            try:
                for _ in range(20):
                    assert client.request("POST", "/x", {}).status == 200
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert not failures
    assert len(kube.seen) == 80
    assert kube.connections <= 4
