"""A server as a process, and strangers and workloads that hold what they can get: others are served all the same."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.ca.server.calls.lanes import ASIDE_PLACES
from meshpki.ca.server.calls.patience import OFTEN
from meshpki.ca.server.health import WATCHES_AT_ONCE
from meshpki.runtime.http import CONNECTIONS
from meshpki.wire.health_pb2 import HealthCheckResponse
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH
from support.authority import make_authority
from support.ca_server import SERVER_NAME, CaClient, CallFailedError, CaProcess
from support.http2 import Http2Connection
from support.jwks_server import serving
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e
PLACES = 64
AUTHORITY = make_authority()
MAKER = TokenMaker()


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[CaProcess]:
    server = CaProcess(tmp_path, AUTHORITY, MAKER)
    yield server
    assert server.end(signal.SIGTERM) == 0


def until(condition: Callable[[], object], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def token(pod: str) -> bytes:
    """A good token of that pod."""
    claims = MAKER.claims(now=time.time())
    bound = claims["kubernetes.io"]
    assert isinstance(bound, dict)
    return MAKER.sign({**claims, "kubernetes.io": {**bound, "pod": {"name": pod, "uid": f"uid-of-{pod}"}}})


def bearer(pod: str) -> tuple[tuple[str, str]]:
    return (("authorization", "Bearer " + token(pod).decode()),)


def asking_again(call: Callable[[], object]) -> int:
    """Make a call as agents do, again after a pause when it is told so; how often it was made."""
    for number in range(1, 101):
        try:
            call()
        except CallFailedError as error:
            assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED, error
            time.sleep(0.1)
        else:
            return number
    raise AssertionError("told to try again a hundred times")


def number_of(ca: CaProcess, name: str) -> float:
    """A metric; 0 when it is not there."""
    found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", ca.http("/metrics")[1], re.MULTILINE)
    return float(found[1]) if found else 0.0


@contextlib.contextmanager
def holding(ca: CaProcess, path: str, pods: list[str]) -> Iterator[None]:
    """For each pod (or stranger, named "") a connection with a call that never sends its request, again and again."""
    stop = threading.Event()

    def never() -> Iterator[bytes]:
        stop.wait(120)
        yield from ()

    def hold(pod: str) -> None:
        client = CaClient(ca.client.address, AUTHORITY.root_pem)
        method: grpc.StreamUnaryMultiCallable[bytes, bytes] = client.channel.stream_unary(path)
        metadata = bearer(pod) if pod else ()
        while not stop.is_set():
            with contextlib.suppress(grpc.RpcError):
                method(never(), metadata=metadata, timeout=120)
            stop.wait(0.02)
        client.close()

    threads = [threading.Thread(target=hold, args=(pod,)) for pod in pods]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(120)


@pytest.mark.parametrize("pods", [1, 2 * PLACES], ids=["one pod", "as many pods"])
def test_calls_without_a_request_keep_no_other_pod_from_its_certificate(ca: CaProcess, pods: int) -> None:
    holders = [f"held-{number % pods}" for number in range(2 * PLACES)]
    with holding(ca, CREATE_CERTIFICATE, holders):
        until(lambda: number_of(ca, "meshpki_ca_waiting") > OFTEN / 2)
        tries = [asking_again(lambda: ca.client.sign(token("honest"))) for _ in range(20)]
        assert sum(tries) <= 200, tries
        assert number_of(ca, "meshpki_ca_in_flight") <= PLACES
        assert ca.http("/readyz") == (200, "ok\n")
        until(lambda: '"calls were sent away' in ca.log.read_text())
    until(lambda: number_of(ca, "meshpki_ca_in_flight") == 0)
    sent_away = number_of(ca, 'meshpki_ca_sent_away{reason="caller_late"}')
    assert (sent_away + number_of(ca, 'meshpki_ca_sent_away{reason="request_late"}')) > 0
    assert len(ca.client.sign(token("held-0"))) == 3


def test_the_pod_that_holds_calls_is_named_in_the_audit_log(ca: CaProcess) -> None:
    with holding(ca, CREATE_CERTIFICATE, ["held"] * 20):
        until(lambda: number_of(ca, 'meshpki_ca_failures{reason="caller_late"}') > 0)
        until(lambda: '"pod":"held"' in ca.audit.read_text())


def test_calls_for_health_without_a_request_keep_nobody_from_asking(ca: CaProcess) -> None:
    with holding(ca, HEALTH_CHECK, [""] * (ASIDE_PLACES // 2)):
        until(lambda: number_of(ca, "meshpki_ca_waiting") >= ASIDE_PLACES // 4)
        for _ in range(100):
            answer = HealthCheckResponse.FromString(ca.client.raw(HEALTH_CHECK, b""))
            assert answer.status == HealthCheckResponse.SERVING
    with holding(ca, HEALTH_CHECK, [""] * (2 * ASIDE_PLACES)):
        until(lambda: number_of(ca, 'meshpki_ca_sent_away{reason="request_late"}') > 0)
        tries = [asking_again(lambda: ca.client.raw(HEALTH_CHECK, b"")) for _ in range(50)]
        assert sum(tries) <= 250, tries
        assert asking_again(lambda: ca.client.sign(token("honest"))) == 1


def test_watchers_that_read_nothing_keep_nobody_from_watching(ca: CaProcess) -> None:
    """Each of their answers waits in a thread of ours for a window that never opens."""
    connection = Http2Connection(ca.client.address, AUTHORITY.root_pem, SERVER_NAME, window=0)
    for number in range(2 * ASIDE_PLACES):
        connection.call(HEALTH_WATCH, 2 * number + 1)
        connection.listen(0.01)
    until(lambda: number_of(ca, 'meshpki_ca_sent_away{reason="health_busy"}') >= ASIDE_PLACES)
    watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = ca.client.channel.unary_stream(HEALTH_WATCH)
    call = watch(b"", timeout=120)
    assert HealthCheckResponse.FromString(next(call)).status == HealthCheckResponse.SERVING
    call.cancel()
    for _ in range(20):
        ca.client.raw(HEALTH_CHECK, b"")
    until(lambda: number_of(ca, "meshpki_ca_in_flight") <= WATCHES_AT_ONCE)
    connection.close()
    until(lambda: number_of(ca, "meshpki_ca_in_flight") == 0)


def test_tokens_of_unknown_keys_keep_nobody_waiting_while_the_keys_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    with serving(tmp_path / "keys") as keys:
        keys.serve(MAKER.jwks())
        server = CaProcess(tmp_path, AUTHORITY, MAKER, jwks=f"{{url: '{keys.url}', ca_file: '{keys.root}'}}")
        until(lambda: server.http("/readyz")[0] == 200)
        assert len(server.client.sign(token("honest"))) == 3
        keys.behaviour = lambda handler: (keys.finished.wait(120), None)[1]
        stop, told = threading.Event(), set[str]()

        def stranger(number: int) -> None:
            client = CaClient(server.client.address, AUTHORITY.root_pem)
            claims = MAKER.claims(now=time.time() - 600)
            forged = MAKER.sign(claims, MAKER.header(kid=f"none-{number}")).rpartition(b".")[0] + b".AAAA"
            while not stop.wait(0.02):
                try:
                    client.sign(forged)
                except CallFailedError as error:
                    told.add(error.reason)
            client.close()

        threads = [threading.Thread(target=stranger, args=(number,)) for number in range(2 * PLACES)]
        for thread in threads:
            thread.start()
        # From some seconds after the last look on, strangers make the server look again, and each time that hangs for
        # seconds.
        deadline, tries = time.monotonic() + 240, list[int]()
        while len(keys.requests) < 4:
            assert time.monotonic() < deadline, (keys.requests, told)
            tries.append(asking_again(lambda: server.client.sign(token("honest"))))
            time.sleep(0.05)
        assert max(tries) <= 25, tries
        stop.set()
        for thread in threads:
            thread.join(120)
        assert told <= {"key_not_seen_yet", "keys_unavailable", "token_unknown_key", "server_busy"}
        assert server.end(signal.SIGTERM) == 0


# --- connections


def greeted(address: str) -> Http2Connection:
    """A connection that says hello, and nothing more."""
    return Http2Connection(address, AUTHORITY.root_pem, SERVER_NAME)


def test_connections_without_a_call_take_neither_health_nor_calls_away(tmp_path: Path) -> None:
    server = CaProcess(tmp_path, AUTHORITY, MAKER, files=400)
    assert len(server.client.sign(token("honest"))) == 3
    assert '"fewer connections than configured' in server.log.read_text()
    held, turned_away = list[Http2Connection](), 0
    for _ in range(420):
        try:
            held.append(greeted(server.client.address))
        except OSError:
            turned_away += 1
    assert turned_away >= 100
    for _ in range(20):
        assert server.http("/livez") == (200, "ok\n")
        assert len(server.client.sign(token("honest"))) == 3
    assert server.http("/readyz") == (200, "ok\n")
    for each in held:
        each.close()
    until(lambda: _dials(server))
    assert server.end(signal.SIGTERM) == 0


def _dials(server: CaProcess) -> bool:
    client = CaClient(server.client.address, AUTHORITY.root_pem)
    try:
        return len(client.sign(token("honest"))) == 3
    except CallFailedError:
        return False
    finally:
        client.close()


def test_the_configured_number_of_connections_is_what_there_may_be(tmp_path: Path) -> None:
    server = CaProcess(tmp_path, AUTHORITY, MAKER, "limits: {connections: 3}\n")
    held = [greeted(server.client.address) for _ in range(3)]
    assert not _dials(server)
    assert server.http("/livez") == (200, "ok\n")
    held.pop().close()
    until(lambda: _dials(server))
    for each in held:
        each.close()
    assert server.end(signal.SIGTERM) == 0


def test_it_may_hold_as_many_files_open_as_the_machine_allows(tmp_path: Path) -> None:
    server = CaProcess(tmp_path, AUTHORITY, MAKER, files=3000, at_first=200)
    line = next(
        each
        for each in Path(f"/proc/{server.process.pid}/limits").read_text().splitlines()
        if each.startswith("Max open files")
    )
    assert line.split()[3:5] == ["3000", "3000"]
    assert server.end(signal.SIGTERM) == 0


def test_dripping_connections_take_no_health_away(ca: CaProcess) -> None:
    host, _, port = ca.says["http"].rpartition(":")
    stop = threading.Event()

    def drip() -> None:
        while not stop.is_set():
            with contextlib.suppress(OSError), socket.create_connection((host, int(port)), timeout=60) as connection:
                connection.sendall(b"GET /livez HTTP/1.1\r\nX: ")
                while not stop.wait(0.1):
                    connection.sendall(b"a")
            stop.wait(0.1)

    threads = [threading.Thread(target=drip) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    for _ in range(30):
        assert ca.http("/livez") == (200, "ok\n")
    stop.set()
    for thread in threads:
        thread.join(120)
