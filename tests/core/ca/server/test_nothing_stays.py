"""What is left of a call when it has ended: nothing, and at once. A call that stays counts against its connection."""

from __future__ import annotations

import gc
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.ca.keys import KeyKind, generate
from meshpki.ca.server.calls.endings import ending, forget
from meshpki.ca.server.calls.grpc_core import CoreCall
from meshpki.ca.server.calls.inbound import InboundCall
from meshpki.ca.server.calls.methods import Call, CallRefusedError
from meshpki.ca.server.calls.stream import Stream
from meshpki.errors import UnavailableError
from meshpki.wire.health_pb2 import HealthCheckRequest
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH, REPORT_BUNDLE
from meshpki.wire.trust_bundles_pb2 import ReportRequest
from support import renewal
from support.authority import make_authority, make_csr
from support.ca_server import CallFailedError, CaProcess, RunningCa
from support.renewal import CertificateClient, Held, client_of, obtain
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Code = grpc.StatusCode


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[RunningCa]:
    with renewal.running(tmp_path) as running:
        yield running


LEFT_BY_OTHER_TESTS: list[object] = []
"""Some break gRPC on purpose."""


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    LEFT_BY_OTHER_TESTS[:] = calls()
    gc.disable()
    yield
    gc.enable()
    LEFT_BY_OTHER_TESTS.clear()


def calls() -> list[object]:
    """What there is of calls, everywhere in this process; those of the clients are gRPC's own."""
    known = {id(each) for each in LEFT_BY_OTHER_TESTS}
    ours = (InboundCall, CoreCall, Stream)
    return [each for each in gc.get_objects() if isinstance(each, ours) and id(each) not in known]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def bearer(ca: RunningCa, token: bytes | None = None) -> tuple[tuple[str, str]]:
    return (("authorization", "Bearer " + (token or ca.maker.token(now=time.time())).decode()),)


def fails(wanted: str, call: Callable[[], object]) -> None:
    with pytest.raises(CallFailedError) as caught:
        call()
    assert wanted in {caught.value.reason, caught.value.code.name}


# --- one way after the other that a call ends


def issued(ca: RunningCa) -> None:
    ca.client.sign(ca.maker.token(now=time.time()))


def bad_token(ca: RunningCa) -> None:
    fails("token_malformed", lambda: ca.client.sign(b"x.y.z"))


def bad_csr(ca: RunningCa) -> None:
    fails("csr_not_pem", lambda: ca.client.sign(ca.maker.token(now=time.time()), csr="none"))


def bad_identity(ca: RunningCa) -> None:
    other = "spiffe://mesh.local/ns/default/sa/other"
    fails("identity_impersonation", lambda: ca.client.request(bearer(ca), ImpersonatedIdentity=other))


def bad_request(ca: RunningCa) -> None:
    fails("request_malformed", lambda: ca.client.raw(CREATE_CERTIFICATE, b"\xff", bearer(ca)))


def no_request(ca: RunningCa) -> None:
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = ca.client.channel.stream_unary(CREATE_CERTIFICATE)
    with pytest.raises(grpc.RpcError) as caught:
        method(iter(()), metadata=bearer(ca), timeout=60)
    assert "request_missing" in str(caught.value)


def never(stop: threading.Event) -> Iterator[bytes]:
    stop.wait(60)
    yield from ()


def left_before_its_request(ca: RunningCa) -> None:
    stop = threading.Event()
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = ca.client.channel.stream_unary(CREATE_CERTIFICATE)
    call = method.future(never(stop), metadata=bearer(ca), timeout=60)
    until(lambda: calls() or call.done())  # it may have been sent away before anybody looked
    call.cancel()
    stop.set()


def audit_away(ca: RunningCa) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        fails("audit_unavailable", partial(issued, ca))


def keys_away(ca: RunningCa) -> None:
    settings = ca.config.clusters[0].jwks
    assert settings is not None
    assert settings.file is not None
    away = settings.file.rename(settings.file.with_suffix(".away"))
    unknown = ca.maker.token(ca.maker.header(kid="unknown"), now=time.time())
    fails("keys_unavailable", lambda: ca.client.sign(unknown))
    away.rename(settings.file)


def ours(ca: RunningCa) -> None:
    logger = logging.getLogger("meshpki.ca.server.calls.endings")  # pytest keeps what is logged, with its frames
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logger, "disabled", True)
        patch.setattr("meshpki.ca.server.issuance.draw", lambda: 1 / 0)
        fails("internal", partial(issued, ca))


def many_at_once(ca: RunningCa) -> None:
    """Good ones and bad ones in one batch: errors are made in one call's thread and raised in another's."""
    good = [partial(issued, ca)] * 8
    threads = [threading.Thread(target=each) for each in (*good, *([partial(bad_csr, ca)] * 8))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)


def report_refused(ca: RunningCa) -> None:
    fails("token_missing", lambda: ca.client.raw(REPORT_BUNDLE, b""))
    fails("report_digest_malformed", lambda: ca.client.raw(REPORT_BUNDLE, b"", bearer(ca)))


def reported(ca: RunningCa) -> None:
    request = ReportRequest(digest="0f" * 32, sequence=1, roots=1).SerializeToString()
    ca.client.raw(REPORT_BUNDLE, request, bearer(ca))


def health(ca: RunningCa) -> None:
    ca.client.raw(HEALTH_CHECK, b"")
    fails("service_unknown", lambda: ca.client.raw(HEALTH_CHECK, HealthCheckRequest(service="x").SerializeToString()))
    fails("request_malformed", lambda: ca.client.raw(HEALTH_CHECK, b"\xff"))


def watch(ca: RunningCa) -> None:
    method: grpc.UnaryStreamMultiCallable[bytes, bytes] = ca.client.channel.unary_stream(HEALTH_WATCH)
    with pytest.raises(grpc.RpcError):
        next(method(b"\xff", timeout=60))
    call = method(b"", timeout=60)
    next(call)
    call.cancel()


def nothing_there(ca: RunningCa) -> None:
    fails("UNIMPLEMENTED", lambda: ca.client.raw("/none", b""))


def by_certificate(ca: RunningCa) -> None:
    with client_of(ca, obtain(ca)) as client:
        client.request(())
        fails("peer_with_token", lambda: client.raw(CREATE_CERTIFICATE, b"", bearer(ca)))
        fails("peer_with_token", lambda: client.raw(REPORT_BUNDLE, b"", bearer(ca)))
        fails("csr_not_pem", lambda: client.request((), csr="none"))


WAYS = (
    issued,
    bad_token,
    bad_csr,
    bad_identity,
    bad_request,
    no_request,
    left_before_its_request,
    audit_away,
    keys_away,
    ours,
    many_at_once,
    report_refused,
    reported,
    health,
    watch,
    nothing_there,
    by_certificate,
)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.usefixtures("no_collector")
def test_a_call_is_gone_when_it_has_ended(ca: RunningCa, way: Callable[[RunningCa], None]) -> None:
    for _ in range(3):
        way(ca)
    until(lambda: not calls())


def test_every_method_of_both_tables_ends_in_some_of_these_ways(ca: RunningCa) -> None:
    """A new method needs ways of its own above."""
    by_token, by_certificate = (sorted(table.rows) for table in ca.server.tables)
    assert by_token == sorted([CREATE_CERTIFICATE, REPORT_BUNDLE, HEALTH_CHECK, HEALTH_WATCH])
    assert by_certificate == sorted([CREATE_CERTIFICATE, REPORT_BUNDLE])


# --- whatever a handler does


def keeps_its_own_error() -> None:
    refused = CallRefusedError(Code.UNAUTHENTICATED, "reason", "a sentence")
    raise refused


def keeps_the_cause() -> None:
    kept: list[Exception] = []
    try:
        keeps_its_own_error()
    except CallRefusedError as error:
        failed = UnavailableError("away")
        kept += [error, failed]
        raise failed from error


def keeps_a_context() -> None:
    try:
        keeps_the_cause()
    except UnavailableError as error:
        kept: list[Exception] = [error, ZeroDivisionError()]
        raise kept[1] from None


class Local:
    """Something in a frame that can be counted."""


@pytest.mark.parametrize("raising", [keeps_its_own_error, keeps_the_cause, keeps_a_context])
@pytest.mark.usefixtures("no_collector")
def test_of_an_error_nothing_is_left(raising: Callable[[], None]) -> None:
    def shell() -> None:
        local = Local()
        try:
            raising()
        except Exception as error:  # as the shell does
            forget(error)
        assert local is not None

    shell()
    assert not [each for each in gc.get_objects() if isinstance(each, Local)]


def test_what_the_caller_is_told(caplog: pytest.LogCaptureFixture) -> None:
    call = Call("ab-1", "ipv4:10.0.0.1:5", 0.0, ())
    assert ending(call, CallRefusedError(Code.NOT_FOUND, "why", "so")) == (Code.NOT_FOUND, "why: so")
    assert not caplog.records
    status, text = ending(call, ValueError("secret"))
    assert (status, text.partition(":")[0]) == (Code.INTERNAL, "internal")
    assert "ab-1" in text
    assert "secret" not in text
    assert "secret" in caplog.text


# --- in a process, as `serve` sets it up

MORE_THAN_A_CONNECTION_TAKES = 300
RENEWAL = "profile: {default_ttl: 1h, max_ttl: 1h}\nrenewal: {listen: '127.0.0.1:0', max_without_token: 6h}\n"

_LEAKS = """
import sys
from meshpki.ca.server.calls.lanes import aside_lane
from meshpki.ca.server.calls.listener import Door
from meshpki.ca.server.calls.method_table import MethodTable
from meshpki.ca.server.calls.methods import Method, StreamMethod, anyone
from meshpki.ca.server.calls.reception import Reception
from meshpki.ca.server.calls.sent_away import SentAway
from meshpki.runtime.garbage import settle

def leak(call, granted, request):
    try:
        raise ValueError
    except ValueError as error:
        kept = error  # the error holds this frame, and the frame the error
    return b"answer"

def leaks(call, granted, request, stream):
    try:
        raise ValueError
    except ValueError as error:
        kept = error
    stream.send(b"answer")
    stream.finish()

methods = Method("/a/leak", anyone, leak), StreamMethod("/a/leaks", anyone, leaks)
reception = Reception(SentAway())
address = reception.listen(Door("127.0.0.1:0", "listen", None, 10), MethodTable(methods, aside_lane(print)))
reception.start()
settle()
print(address, flush=True)
sys.stdin.read()
"""


@pytest.mark.e2e
def test_a_handler_that_leaves_cycles_behind_kills_no_connection() -> None:
    """The last net: the collector is not slower than a connection's streams are used up."""
    with subprocess.Popen(
        [sys.executable, "-c", _LEAKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        with grpc.insecure_channel(address, options=[("grpc.enable_retries", 0)]) as channel:
            unary: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/a/leak")
            stream: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream("/a/leaks")
            for _ in range(500):
                assert unary(b"", timeout=60) == b"answer"
                assert list(stream(b"", timeout=60)) == [b"answer"]
        process.stdin.close()


@pytest.mark.e2e
def test_hundreds_of_refusals_of_every_kind_and_then_a_good_call(tmp_path: Path) -> None:
    maker, authority = TokenMaker(), make_authority()
    server = CaProcess(tmp_path, authority, maker, RENEWAL)

    def bearer() -> tuple[tuple[str, str]]:
        return (("authorization", "Bearer " + maker.token(now=time.time()).decode()),)

    key = generate(KeyKind.EC_P256)
    held = Held(tuple(server.client.sign(maker.token(now=time.time()), make_csr(key))), key)
    renewal_client = CertificateClient(server.says["renewal"], authority.root_pem, held.presented, held.key)
    unknown = HealthCheckRequest(service="x").SerializeToString()
    foreign = "spiffe://mesh.local/ns/default/sa/other"
    refusals: list[tuple[str, Callable[[], object]]] = [
        ("token_malformed", lambda: server.client.sign(b"x.y.z")),
        ("token_missing", lambda: server.client.raw(REPORT_BUNDLE, b"")),
        ("csr_not_pem", lambda: server.client.request(bearer(), csr="none")),
        ("identity_impersonation", lambda: server.client.request(bearer(), ImpersonatedIdentity=foreign)),
        ("request_malformed", lambda: server.client.raw(CREATE_CERTIFICATE, b"\xff", bearer())),
        ("report_digest_malformed", lambda: server.client.raw(REPORT_BUNDLE, b"", bearer())),
        ("service_unknown", lambda: server.client.raw(HEALTH_CHECK, unknown)),
        ("UNIMPLEMENTED", lambda: server.client.raw("/none", b"")),
        ("peer_with_token", lambda: renewal_client.raw(CREATE_CERTIFICATE, b"", bearer())),
        ("csr_not_pem", lambda: renewal_client.request((), csr="none")),
    ]
    try:
        for wanted, call in refusals:
            for _ in range(MORE_THAN_A_CONNECTION_TAKES):
                fails(wanted, call)
        with server.without_disk():
            for client, credential in ((server.client, bearer()), (renewal_client, ())):
                for _ in range(MORE_THAN_A_CONNECTION_TAKES):
                    fails("audit_unavailable", lambda: client.request(credential))  # noqa: B023
        until(lambda: server.http("/readyz")[0] == 200)
        for client, credential in ((server.client, bearer()), (renewal_client, ())):
            assert len(client.request(credential)) == 3
        assert "meshpki_ca_in_flight 0.0" in server.http("/metrics")[1]
    finally:
        renewal_client.close()
        assert server.end(signal.SIGTERM) == 0
