"""The server itself, over real TLS: its table, its limits, its health, its way in and out."""

from __future__ import annotations

import errno
import logging
import os
import socket
import ssl
import threading
import time
import urllib.error
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509

from meshpki.ca.audit.log import AuditLog
from meshpki.ca.audit.verify import tail, verify
from meshpki.ca.config import Limits
from meshpki.ca.config_values import HostPort
from meshpki.ca.server.ca_server import CaServer
from meshpki.ca.server.calls.grpc_options import OPTIONS
from meshpki.ca.server.calls.listener import RESERVED_FILES, affordable
from meshpki.ca.server.calls.methods import anyone
from meshpki.ca.server.calls.patience import REQUEST_SECONDS
from meshpki.ca.server.health import WATCHES_AT_ONCE
from meshpki.ca.server.metrics import Outcome
from meshpki.errors import IntegrityError, InvalidValueError, MachineError, MeshpkiError, PluginError, UnavailableError
from meshpki.identity import TrustDomain
from meshpki.tokens.jwks import FileKeySource
from meshpki.wire.health_pb2 import HealthCheckRequest, HealthCheckResponse
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH, REPORT_BUNDLE
from support.authority import make_authority
from support.ca_server import SERVER_NAME, CallFailedError, RunningCa, failures, http_page, make_config, running
from support.http2 import ENHANCE_YOUR_CALM, GoAway, Http2Connection
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki.hooks import Signer

Code = grpc.StatusCode


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[RunningCa]:
    with running(tmp_path) as server:
        yield server


def good_token() -> bytes:
    return TokenMaker().token(now=time.time())


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Wait for a condition, with a bound."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# --- the method table


def test_the_table_is_exactly_this_and_every_method_has_a_rule(ca: RunningCa) -> None:
    methods = {path: row.method for path, row in ca.server.tables[0].rows.items()}
    assert sorted(methods) == sorted([CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH, REPORT_BUNDLE])
    assert {path for path, method in methods.items() if method.rule is anyone} == {HEALTH_CHECK, HEALTH_WATCH}


@pytest.mark.parametrize(
    "path",
    [
        "/istio.v1.auth.IstioCertificateService/DeleteCertificate",
        "/istio.v1.auth.IstioCertificateService/createcertificate",
        "/istio.v1.auth.IstioCertificateService/CreateCertificate/",
        "/istio.v1.auth.IstioCertificateService/",
        "/IstioCAService/HandleCSR",
        "/grpc.health.v1.Health/List",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/",
    ],
)
def test_everything_else_does_not_exist_with_or_without_a_token(ca: RunningCa, path: str) -> None:
    for metadata in ((), (("authorization", f"Bearer {good_token().decode()}"),)):
        with pytest.raises(CallFailedError) as caught:
            ca.client.raw(path, b"", metadata)
        assert caught.value.code is Code.UNIMPLEMENTED


def test_no_method_but_health_answers_without_a_credential(ca: RunningCa) -> None:
    for path in ca.server.tables[0].rows:
        if path in {HEALTH_CHECK, HEALTH_WATCH}:
            continue
        with pytest.raises(CallFailedError) as caught:
            ca.client.raw(path, b"")
        assert caught.value.code is Code.UNAUTHENTICATED


# --- limits


class SlowSigner:
    """Signs when it is told to."""

    def __init__(self, inner: Signer) -> None:
        self._inner = inner
        self.slow = False
        self.go = threading.Event()
        self.waiting = 0

    @property
    def chain(self) -> tuple[bytes, ...]:
        return self._inner.chain

    def sign(self, tbs: bytes) -> bytes:
        if self.slow:
            self.waiting += 1
            assert self.go.wait(60)
        return self._inner.sign(tbs)


def test_overload_is_said_at_once_and_passes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = make_authority()
    signer = SlowSigner(authority.signer)
    with running(tmp_path, authority=authority, signer=lambda: signer, limits=Limits(in_flight=2, threads=2)) as ca:
        signer.slow = True
        done: list[int] = []
        threads = [threading.Thread(target=lambda: done.append(len(ca.client.sign(good_token())))) for _ in range(2)]
        for thread in threads:
            thread.start()
        until(lambda: signer.waiting == 2)
        assert "meshpki_ca_in_flight 2.0" in ca.http("/metrics")[1]
        with pytest.raises(CallFailedError) as caught:
            ca.client.sign(good_token())
        assert (caught.value.code, caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "server_busy")
        assert "2 calls" in caught.value.details
        assert not done, "nobody was waited for"
        assert ca.http("/livez") == (200, "ok\n")
        text = ca.http("/metrics")[1]
        for line in (
            'meshpki_ca_sent_away{reason="server_busy"} 1.0',
            'meshpki_ca_failures{reason="server_busy"} 1.0',
            'citadel_server_csr_sign_err_count{error="server_busy"} 1.0',
            "citadel_server_csr_count 1.0",
            "meshpki_ca_in_flight 2.0",
        ):
            assert f"\n{line}\n" in text, line
        until(lambda: "calls were sent away" in caplog.text)
        signer.go.set()
        for thread in threads:
            thread.join(60)
        assert done == [3, 3]
        assert len(ca.client.sign(good_token())) == 3


def test_a_connection_that_says_nothing_is_dropped_while_calls_go_on(ca: RunningCa) -> None:
    host, _, port = ca.server.address.rpartition(":")
    idle = [socket.create_connection((host, int(port)), timeout=60) for _ in range(50)]
    assert 0 < dict(OPTIONS)["grpc.server_handshake_timeout_ms"] <= 10_000
    for _ in range(20):
        assert len(ca.client.sign(good_token())) == 3
    for connection in idle:
        while connection.recv(4096):  # the server's settings may come first; then the end
            pass
        connection.close()


def requests_that_never_come(stop: threading.Event) -> Iterator[bytes]:
    stop.wait(60)
    yield from ()


def test_without_a_credential_nobody_keeps_a_thread_waiting(ca: RunningCa) -> None:
    stop = threading.Event()
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = ca.client.channel.stream_unary(CREATE_CERTIFICATE)
    with pytest.raises(CallFailedError) as caught, failures():
        method(requests_that_never_come(stop), timeout=60)
    stop.set()
    assert caught.value.reason == "token_missing", "and not that its request was late"


def test_a_request_that_never_comes_is_not_waited_for(ca: RunningCa) -> None:
    stop = threading.Event()
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = ca.client.channel.stream_unary(CREATE_CERTIFICATE)
    metadata = (("authorization", f"Bearer {good_token().decode()}"),)
    began = time.monotonic()
    with pytest.raises(CallFailedError) as caught, failures():
        method(requests_that_never_come(stop), metadata=metadata, timeout=60)
    stop.set()
    assert (caught.value.code, caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "request_late")
    assert time.monotonic() - began >= REQUEST_SECONDS
    for line in (
        "meshpki_ca_in_flight 0.0",
        'meshpki_ca_sent_away{reason="request_late"} 1.0',
        'meshpki_ca_failures{reason="request_late"} 1.0',
        "citadel_server_csr_count 1.0",
    ):
        until(lambda line=line: line in ca.http("/metrics")[1])  # type: ignore[misc]
    until(lambda: tail(ca.config.audit, 1)[0].record.reason == "request_late")
    assert tail(ca.config.audit, 1)[0].record.service_account == "web"


def test_a_call_whose_caller_leaves_before_its_request_is_on_record(
    ca: RunningCa, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("meshpki.ca.server.calls.waiting_room.REQUEST_SECONDS", 60.0)
    stop = threading.Event()
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = ca.client.channel.stream_unary(CREATE_CERTIFICATE)
    metadata = (("authorization", f"Bearer {good_token().decode()}"),)
    call = method.future(requests_that_never_come(stop), metadata=metadata, timeout=60)
    until(lambda: "meshpki_ca_waiting 1.0" in ca.http("/metrics")[1])
    call.cancel()
    until(lambda: "meshpki_ca_waiting 0.0" in ca.http("/metrics")[1])
    until(lambda: tail(ca.config.audit, 1)[0].record.reason in {"caller_left", "request_missing"})
    stop.set()


@pytest.mark.parametrize(
    ("wanted", "files", "listeners", "given"),
    [
        (4096, 1 << 20, 1, 4096),
        (4096, 4096, 1, 4096 - RESERVED_FILES),
        (4096, 1024, 1, 768),
        (4096, 1024, 2, 384),
        (4096, 256, 1, 192),
        (100, 1024, 2, 100),
    ],
)
def test_connections_leave_some_files_for_everything_else(
    wanted: int, files: int, listeners: int, given: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert affordable(wanted, files, listeners) == given
    assert bool(caplog.records) is (given < wanted)


def test_a_second_server_on_the_port_is_an_error() -> None:
    assert dict(OPTIONS)["grpc.so_reuseport"] == 0


def pinging(ca: RunningCa) -> Http2Connection:
    return Http2Connection(ca.server.address, ca.authority.root_pem, SERVER_NAME)


def test_too_many_pings_end_the_connection(ca: RunningCa) -> None:
    with pinging(ca) as connection:
        for _ in range(20):
            connection.ping()
            connection.listen(0.1)
        connection.listen(60)
        assert connection.goaway == GoAway(ENHANCE_YOUR_CALM, b"too_many_pings")
    assert len(ca.client.sign(good_token())) == 3


@pytest.mark.e2e
def test_pings_are_tolerated_more_often_than_istios_clients_send_them(ca: RunningCa) -> None:
    """Those send one every 15 s at most. The first is free, and the third that is too early ends the connection."""
    every = 11.0
    with pinging(ca) as connection:
        for number in range(4):
            connection.ping()
            connection.listen(every if number < 3 else 2.0)
        for _ in range(60):
            if connection.answered < 4:
                connection.listen(1.0)
        assert (connection.goaway, connection.ended, connection.answered) == (None, False, 4)


def test_a_connection_without_a_call_is_closed_with_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "grpc.max_connection_idle_ms"
    assert 0 < dict(OPTIONS)[name] <= 300_000
    monkeypatch.setattr("meshpki.ca.server.calls.listener.OPTIONS", tuple({**dict(OPTIONS), name: 500}.items()))
    with running(tmp_path) as ca, pinging(ca) as connection:
        connection.listen(60)
        assert connection.goaway
        assert connection.goaway.reason == b"connection idle"
        assert len(ca.client.sign(good_token())) == 3


# --- health


def test_health_check(ca: RunningCa) -> None:
    until(lambda: ca.http("/readyz")[0] == 200)
    for service in ("", "istio.v1.auth.IstioCertificateService"):
        answer = ca.client.raw(HEALTH_CHECK, HealthCheckRequest(service=service).SerializeToString())
        assert HealthCheckResponse.FromString(answer).status == HealthCheckResponse.SERVING
    with pytest.raises(CallFailedError) as caught:
        ca.client.raw(HEALTH_CHECK, HealthCheckRequest(service="other").SerializeToString())
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(CallFailedError) as caught:
        ca.client.raw(HEALTH_CHECK, b"\xff\xff")
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_health_watch_follows_and_is_bounded(tmp_path: Path) -> None:
    with running(tmp_path) as ca:
        watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = ca.client.channel.unary_stream(HEALTH_WATCH)
        until(lambda: ca.http("/readyz")[0] == 200)
        calls = []
        for _ in range(WATCHES_AT_ONCE):
            calls.append(watch(b"", timeout=120))
            assert HealthCheckResponse.FromString(next(calls[-1])).status == HealthCheckResponse.SERVING
        unknown = watch(HealthCheckRequest(service="x").SerializeToString(), timeout=120)
        assert HealthCheckResponse.FromString(next(unknown)).status == HealthCheckResponse.SERVICE_UNKNOWN
        with pytest.raises(CallFailedError) as caught, failures():
            next(calls[0])  # the oldest made room
        assert (caught.value.code, caught.value.reason) == (Code.RESOURCE_EXHAUSTED, "health_busy")
        assert 'meshpki_ca_sent_away{reason="health_busy"} 1.0' in ca.http("/metrics")[1]
        assert len(ca.client.sign(good_token())) == 3
        unknown.cancel()
        until(lambda: ca.server.metrics.registry.get_sample_value("meshpki_ca_in_flight") == WATCHES_AT_ONCE - 1)
        ca.server.stop()
        for call in calls[1:]:
            assert [HealthCheckResponse.FromString(answer).status for answer in call] == [2]


def test_pages(ca: RunningCa) -> None:
    assert ca.http("/livez") == (200, "ok\n")
    assert ca.http("/")[0] == 404
    ca.client.sign(good_token())
    text = ca.http("/metrics")[1]
    for name in (
        "citadel_server_csr_count 1.0",
        "citadel_server_success_cert_issuance_count 1.0",
        "citadel_server_authentication_failure_count 0.0",
        "citadel_server_csr_parsing_err_count 0.0",
        "citadel_server_id_extraction_err_count 0.0",
        "# TYPE citadel_server_csr_sign_err_count",
        "citadel_server_root_cert_expiry_timestamp ",
        "citadel_server_cert_chain_expiry_timestamp ",
        "meshpki_ca_issuance_seconds_count 1.0",
    ):
        assert f"\n{name}" in f"\n{text}", name


# --- what can go away


def test_a_disk_that_is_full_stops_issuing_until_there_is_space(ca: RunningCa, monkeypatch: pytest.MonkeyPatch) -> None:
    ca.client.sign(good_token())
    issued = ca.server.metrics.count(Outcome.ISSUED)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", full)
        with pytest.raises(CallFailedError) as caught:
            ca.client.sign(good_token())
        assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "audit_unavailable")
        assert str(ca.config.audit) not in caught.value.details
        assert ca.http("/readyz") == (503, "audit: No space left on device\n")
        assert ca.http("/livez")[0] == 200
        assert ca.server.metrics.count(Outcome.ISSUED) == issued
        assert 'citadel_server_csr_sign_err_count{error="audit_unavailable"} 1.0' in ca.http("/metrics")[1]
    until(lambda: ca.http("/readyz")[0] == 200)
    assert len(ca.client.sign(good_token())) == 3
    ca.server.stop()
    report = verify(ca.config.audit)
    assert report.intact
    assert {"resumed", "issued"} <= set(report.counts)


def test_keys_that_are_away_are_no_verdict_on_a_token(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    settings = config.clusters[0].jwks
    assert settings is not None
    jwks = settings.file
    assert jwks is not None
    with running(tmp_path) as ca:
        pass
    jwks.rename(jwks.with_suffix(".away"))
    server = CaServer(replace(ca.config, audit=tmp_path / "audit2/x.jsonl"))
    with server:
        client = replace(ca.client, address=server.address, roots_pem=ca.authority.root_pem, _channel=None)
        with pytest.raises(CallFailedError) as caught:
            client.sign(good_token())
        assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "keys_unavailable")
        assert str(tmp_path) not in caught.value.details
        here = replace(ca, server=server)
        assert here.http("/readyz") == (503, "keys: none yet for cluster cluster-0\n")
        jwks.with_suffix(".away").rename(jwks)
        until(lambda: here.http("/readyz")[0] == 200)
        assert len(client.sign(good_token())) == 3
        client.close()


class FailingSigner(SlowSigner):
    def sign(self, tbs: bytes) -> bytes:
        if self.slow:
            raise UnavailableError("the key store at /secret/place is away")
        return super().sign(tbs)


def test_a_file_system_that_hangs_under_the_keys_stops_no_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, came, go = FileKeySource._look, threading.Event(), threading.Event()

    def hangs(source: FileKeySource, *args: Any) -> Any:  # Any: as they are
        came.set()
        assert go.wait(120)
        return look(source, *args)

    with running(tmp_path) as ca:
        assert ca.client.sign(ca.maker.token(now=time.time()))
        monkeypatch.setattr(FileKeySource, "_look", hangs)
        try:
            assert came.wait(30)
            until = time.monotonic() + 2.5  # the keys were seen just now; then it is noticed; then it is known
            while time.monotonic() < until:
                assert ca.client.sign(ca.maker.token(now=time.time()))
            for _ in range(10):
                assert ca.client.sign(ca.maker.token(now=time.time()))
            with pytest.raises(CallFailedError, match="UNAVAILABLE"):  # it may be a key that is in the file
                ca.client.sign(TokenMaker(kid="new", slot=1).token(now=time.time()))
        finally:
            go.set()


def test_a_signer_that_is_away(tmp_path: Path) -> None:
    authority = make_authority()
    signer = FailingSigner(authority.signer)
    with running(tmp_path, authority=authority, signer=lambda: signer) as ca:
        signer.slow = True
        with pytest.raises(CallFailedError) as caught:
            ca.client.sign(good_token())
        assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "signer_unavailable")
        assert "/secret/place" not in caught.value.details
        signer.slow = False
        assert len(ca.client.sign(good_token())) == 3


def test_a_fault_of_ours_is_internal_and_says_where_to_look(
    ca: RunningCa, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("meshpki.ca.server.issuance.draw", lambda: 1 / 0)
    with pytest.raises(CallFailedError) as caught:
        ca.client.sign(good_token())
    assert (caught.value.code, caught.value.reason) == (Code.INTERNAL, "internal")
    assert "ZeroDivisionError" not in caught.value.details
    record = next(record for record in caplog.records if record.message == "a call failed")
    assert str(vars(record)["call"]) in caught.value.details


def test_the_chains_end_is_seen(tmp_path: Path) -> None:
    now = [time.time()]
    with running(tmp_path, clock=lambda: now[0]) as ca:
        until(lambda: ca.http("/readyz")[0] == 200)
        now[0] = ca.authority.issuer.not_after + 1.0
        assert ca.http("/readyz") == (503, "issuer: the chain is not valid now\n")


# --- TLS


def peer_leaf(ca: RunningCa) -> x509.Certificate:
    context = ssl.create_default_context(cadata=ca.authority.root_pem.decode())
    context.set_alpn_protocols(["h2"])
    host, _, port = ca.server.address.rpartition(":")
    with (
        socket.create_connection((host, int(port)), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        assert tls.version() in {"TLSv1.2", "TLSv1.3"}
        der = tls.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_it_serves_under_a_leaf_of_its_own(ca: RunningCa) -> None:
    leaf = peer_leaf(ca)
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    recorded = [line.record.serial for line in tail(ca.config.audit, 100) if line.record.kind == "serving"]
    assert recorded == [f"{leaf.serial_number:x}"]


def test_the_leaf_is_renewed_without_dropping_a_connection(tmp_path: Path) -> None:
    now = [time.time() - 13 * 3600]
    authority = make_authority(now=now[0] - 3600)
    with running(tmp_path, authority=authority, clock=lambda: now[0]) as ca:
        first = peer_leaf(ca)
        assert len(ca.client.sign(good_token())) == 3
        now[0] += 13 * 3600
        until(lambda: peer_leaf(ca).serial_number != first.serial_number)
        assert len(ca.client.sign(good_token())) == 3  # on the connection of before
        second = replace(ca.client, _channel=None)
        assert len(second.sign(good_token())) == 3
        second.close()
        ca.server.stop()
        assert verify(ca.config.audit).counts.get("serving") == 2  # type: ignore[call-overload]


# --- the way in and out


def test_it_says_that_it_lives_while_it_still_reads_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server, seen = CaServer(make_config(tmp_path)), list[tuple[int, str]]()
    real = AuditLog.open

    def look(*arguments: object, **terms: object) -> AuditLog:
        seen.extend(http_page(server.http_address, page) for page in ("/livez", "/readyz", "/metrics", "/bundles"))
        return real(*arguments, **terms)  # type: ignore[arg-type]

    monkeypatch.setattr(AuditLog, "open", look)
    with server:
        assert [status for status, _ in seen] == [200, 503, 200, 404]
        assert seen[1][1].startswith("starting: ")
        until(lambda: http_page(server.http_address, "/readyz")[0] == 200)
        assert http_page(server.http_address, "/bundles")[0] == 200


def refuses(server: CaServer, kind: type[MeshpkiError], said: str) -> None:
    with pytest.raises(kind) as caught:
        server.start()
    assert said in str(caught.value)


def test_a_port_in_use_is_said_and_nothing_is_left_behind(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = HostPort("127.0.0.1", taken.getsockname()[1])
        refuses(CaServer(replace(config, listen=port)), MachineError, f"could not listen on {port}")
        refuses(CaServer(replace(config, http=port)), MachineError, f"could not listen on {port}")
    with CaServer(config):  # the audit log was let go
        refuses(CaServer(config), MachineError, "another process")


def broken_plugin() -> Signer:
    raise PluginError("the signer plugin 'kms' cannot be loaded", todo="see `meshpki plugins`")


def test_nothing_is_served_with_a_signer_that_is_not_in_order(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    refuses(CaServer(config, signer=broken_plugin), PluginError, "kms")
    other = make_authority()

    class Liar(SlowSigner):
        def sign(self, tbs: bytes) -> bytes:
            return other.signer.sign(tbs)

    refuses(CaServer(config, signer=lambda: Liar(make_authority().signer)), IntegrityError, "does not belong")
    late = make_authority(now=time.time() - 40 * 86_400, issuer_seconds=86_400)
    refuses(CaServer(config, signer=lambda: late.signer), UnavailableError, "not valid now")
    config.issuer.key.chmod(0o644)
    refuses(CaServer(config), MachineError, "others can read")
    config.issuer.key.unlink()
    refuses(CaServer(config), MachineError, "issuer-key.pem")


def test_nothing_is_served_for_another_trust_domain(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    refuses(CaServer(replace(config, trust_domain=TrustDomain("other.local"))), InvalidValueError, "trust domain")


def test_nothing_is_served_over_an_audit_log_that_was_touched(tmp_path: Path) -> None:
    with running(tmp_path) as ca:
        ca.client.sign(good_token())
    content = ca.config.audit.read_bytes()
    ca.config.audit.write_bytes(content.replace(b'"service_account":"web"', b'"service_account":"wob"'))
    refuses(CaServer(ca.config), IntegrityError, "was edited")


def test_stop_lets_calls_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    authority = make_authority()
    signer = SlowSigner(authority.signer)
    with running(tmp_path, authority=authority, signer=lambda: signer) as ca:
        signer.slow = True
        chains: list[list[str]] = []
        thread = threading.Thread(target=lambda: chains.append(ca.client.sign(good_token())))
        thread.start()
        until(lambda: signer.waiting == 1)
        stopper = threading.Thread(target=ca.server.stop)
        stopper.start()
        until(lambda: ca.http("/readyz")[0] == 503)
        until(lambda: not _listens(ca.server.address))  # readiness was the first to go
        late = replace(ca.client, _channel=None)
        with pytest.raises(CallFailedError) as caught:
            late.sign(good_token())
        assert caught.value.code is Code.UNAVAILABLE
        late.close()
        signer.go.set()
        thread.join(60)
        stopper.join(60)
        assert len(chains[0]) == 3
        ca.server.stop()
        with pytest.raises(urllib.error.URLError):
            ca.http("/livez")
    serial = x509.load_pem_x509_certificate(chains[0][0].encode()).serial_number
    last = [line.record for line in tail(ca.config.audit, 2)]
    assert (last[0].serial, last[1].kind) == (f"{serial:x}", "stopped")
    assert verify(ca.config.audit).intact


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=60).close()
    except ConnectionRefusedError:
        return False
    return True


def test_no_log_line_holds_any_part_of_a_token_or_request(ca: RunningCa, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    token = good_token()
    ca.client.sign(token)
    for bad in TokenMaker().broken(time.time())[:40]:
        if all(0x20 <= byte < 0x7F for byte in bad.token) and len(bad.token) < 9000:
            with pytest.raises(CallFailedError):
                ca.client.sign(bad.token)
    text = "\n".join(str(vars(record)) for record in caplog.records) + ca.config.audit.read_text()
    assert "refused" in text
    assert not any(part.decode() in text for part in token.split(b"."))
    assert "BEGIN CERTIFICATE REQUEST" not in text
