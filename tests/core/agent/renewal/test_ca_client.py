"""The call to the CA: what it sends, and how every way of failing is told apart."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from grpc import _channel

from meshpki.agent.renewal.ca_client import Answer, CaClient, CaRefusedError, CaUnavailableError, sign_once
from meshpki.agent.renewal.credential import TokenCredential
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.errors import MachineError, UsageError
from meshpki.hooks import CaEndpoint
from support.agent_process import CANARY, AgentFiles, fake_token, roots_in
from support.fake_ca import SERVER_NAME, FakeAuthority, FakeCa

TOKEN = fake_token()
CSR = new_key_request(KeyType.EC_P256).csr_pem


@pytest.fixture
def client(ca: FakeCa, files: AgentFiles) -> CaClient:
    return CaClient(ca.address, SERVER_NAME, roots_in(files.roots), "local", deadline_seconds=30)


def ask(client: CaClient, token: str = TOKEN) -> Answer:
    return asyncio.run(client.sign(CSR, TokenCredential(token), 600))


def test_sends_what_istio_sends(ca: FakeCa, client: CaClient) -> None:
    answer = ask(client)
    assert len(answer.cert_chain) == 3
    (call,) = ca.calls
    assert (call.csr, call.validity_seconds) == (CSR, 600)
    assert call.header("authorization") == [f"Bearer {TOKEN}"]
    assert call.header("clusterid") == ["local"]


def test_no_proxy_of_the_environment_is_asked(client: CaClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token goes to the CA and nowhere else; gRPC by itself would go through it."""
    with closing(socket.socket()) as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        proxy.setblocking(False)
        for name in ("grpc_proxy", "https_proxy", "http_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for name in ("no_grpc_proxy", "no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        assert ask(client).cert_chain
        with pytest.raises(BlockingIOError):
            proxy.accept()


def test_no_cluster_no_header(ca: FakeCa, client: CaClient) -> None:
    ask(replace(client, cluster=""))
    assert ca.calls[0].header("clusterid") == []


REFUSALS = [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT]
OTHERS = [code for code in grpc.StatusCode if code not in {*REFUSALS, grpc.StatusCode.OK}]


@pytest.mark.parametrize("status", REFUSALS)
def test_a_verdict_carries_status_and_reason(ca: FakeCa, client: CaClient, status: grpc.StatusCode) -> None:
    ca.status, ca.message = status, "token_wrong_audience: the token is for [api], not for istio-ca"
    with pytest.raises(CaRefusedError, match=r"not for istio-ca") as caught:
        ask(client)
    assert (caught.value.status, caught.value.reason) == (status.name, "token_wrong_audience")
    assert len(ca.calls) == 1, "asked once: the rotation core decides when to ask again"


@pytest.mark.parametrize(
    ("message", "reason"),
    [("request authenticate failure", "unauthenticated"), ("", "unauthenticated"), ("token_expired", "token_expired")],
)
def test_a_verdict_in_other_words(ca: FakeCa, client: CaClient, message: str, reason: str) -> None:
    ca.status, ca.message = grpc.StatusCode.UNAUTHENTICATED, message
    with pytest.raises(CaRefusedError) as caught:
        ask(client)
    assert caught.value.reason == reason


@pytest.mark.parametrize("status", OTHERS)
def test_every_other_status_may_pass(ca: FakeCa, client: CaClient, status: grpc.StatusCode) -> None:
    ca.status = status
    with pytest.raises(CaUnavailableError) as caught:
        ask(client)
    assert caught.value.status == status.name
    assert caught.value.todo
    assert len(ca.calls) == 1


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("review_unavailable: the token's cluster cannot be asked about it now", "review_unavailable"),
        ("audit_unavailable: no certificate leaves before its record is durable", "audit_unavailable"),
        ("failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:1", ""),
    ],
    ids=["reviews", "audit", "not a CA's"],
)
def test_a_ca_that_says_why_it_cannot_answer_is_there(ca: FakeCa, client: CaClient, message: str, reason: str) -> None:
    ca.status, ca.message = grpc.StatusCode.UNAVAILABLE, message
    with pytest.raises(CaUnavailableError) as caught:
        ask(client)
    assert caught.value.reason == reason
    assert ("check that the CA is running" in caught.value.todo) == (not reason)
    assert ("says why" in caught.value.todo) == bool(reason)


@pytest.mark.parametrize(
    "message",
    [
        "errors resolving ca.test:15012: [field:hostname lookup error:address lookup failed for ca.test:15012: Domain"
        " name not found]",
        "DNS resolution failed for ca.test:15012: C-ares status is not ARES_SUCCESS",
    ],
    ids=["now", "earlier releases"],
)
def test_a_name_that_is_nobody_s_is_said(ca: FakeCa, client: CaClient, message: str) -> None:
    """In gRPC's words: what this machine's name service makes of a wrong name is nothing to rely on in a test."""
    ca.status, ca.message = grpc.StatusCode.UNAVAILABLE, message
    with pytest.raises(CaUnavailableError) as caught:
        ask(client)
    assert caught.value.todo.startswith(f"check the name in {ca.address}")


def test_a_ca_that_hangs_is_left_at_the_deadline(ca: FakeCa, client: CaClient) -> None:
    ca.hang.clear()
    with pytest.raises(CaUnavailableError, match="DEADLINE_EXCEEDED"):
        ask(replace(client, deadline_seconds=0.3))


def test_a_port_that_swallows_everything_is_left_at_the_deadline(client: CaClient) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(CaUnavailableError):
            ask(replace(client, address=address, deadline_seconds=0.3))


def test_nobody_there(ca: FakeCa, client: CaClient) -> None:
    ca.stop()
    with pytest.raises(CaUnavailableError, match="UNAVAILABLE") as caught:
        ask(client)
    assert "is running" in caught.value.todo


def test_a_ca_with_another_root_gets_no_token(ca: FakeCa, client: CaClient, files: AgentFiles) -> None:
    roots = roots_in(files.roots)
    client = replace(client, roots=roots)
    files.roots.write_bytes(FakeAuthority().roots_pem)
    roots.reload()
    with pytest.raises(CaUnavailableError, match="UNAVAILABLE") as caught:
        ask(client)
    assert "roots" in caught.value.todo
    assert ca.calls == []
    files.roots.write_bytes(ca.authority.roots_pem)
    roots.reload()
    assert len(ask(client).cert_chain) == 3, "each call goes by the roots of its moment"


def test_a_ca_with_another_name_gets_no_token(ca: FakeCa, client: CaClient) -> None:
    with pytest.raises(CaUnavailableError, match="UNAVAILABLE") as caught:
        ask(replace(client, server_name="other.test"))
    assert "names other.test" in caught.value.todo
    assert ca.calls == []


def test_the_ca_comes_back_on_the_same_port(ca: FakeCa, client: CaClient) -> None:
    ca.stop()
    with pytest.raises(CaUnavailableError):
        ask(client)
    ca.start()
    assert len(ask(client).cert_chain) == 3


@pytest.mark.parametrize("content", [None, b"", b"x" * 2_000_000], ids=["missing", "empty", "monstrous"])
def test_without_roots_nobody_is_asked(ca: FakeCa, client: CaClient, tmp_path: Path, content: bytes | None) -> None:
    """GRPC would take the machine's own roots in place of none."""
    path = tmp_path / "other.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MachineError, match="no roots") as caught:
        ask(replace(client, roots=roots_in(path)))
    assert "--ca-roots" in caught.value.todo
    assert ca.calls == []


def test_an_answer_beyond_all_measure_is_refused(ca: FakeCa, client: CaClient) -> None:
    ca.alter = lambda chain: chain * 2000
    with pytest.raises(CaUnavailableError, match="RESOURCE_EXHAUSTED"):
        ask(client)


@pytest.mark.parametrize("token", [TOKEN, f"e30.{CANARY}.{CANARY}"])
def test_a_token_that_the_ca_echoes_is_cut_out(
    ca: FakeCa, client: CaClient, caplog: pytest.LogCaptureFixture, token: str
) -> None:
    ca.status, ca.message = grpc.StatusCode.UNAUTHENTICATED, f"what is this?\n{token}"
    with caplog.at_level(logging.DEBUG), pytest.raises(CaRefusedError) as caught:
        ask(client, token)
    assert str(caught.value).count("\n") == 0
    for text in (str(caught.value), repr(caught.value), repr(caught.value.__context__ and ""), caplog.text):
        assert CANARY not in text
        assert token not in text


@pytest.mark.parametrize(("token", "cluster"), [("a\nb", ""), ("tökén", ""), (TOKEN, "clüster"), (TOKEN, "a\r\nb: c")])
def test_what_no_header_can_hold_is_refused_without_being_shown(client: CaClient, token: str, cluster: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask(replace(client, cluster=cluster), token)
    assert token not in str(caught.value)
    assert CANARY not in repr(caught.value)


def endpoint(ca: FakeCa) -> CaEndpoint:
    return CaEndpoint(ca.address, SERVER_NAME, ca.authority.roots_pem)


def test_sign_once(ca: FakeCa) -> None:
    assert len(sign_once(endpoint(ca), TOKEN, CSR, 60, cluster="local")) == 3
    (call,) = ca.calls
    assert (call.validity_seconds, call.header("clusterid")) == (60, ["local"])


def test_sign_once_refused(ca: FakeCa) -> None:
    ca.status, ca.message = grpc.StatusCode.UNAUTHENTICATED, "token_expired: it is over"
    with pytest.raises(CaRefusedError) as caught:
        sign_once(endpoint(ca), TOKEN, CSR, 60)
    assert (caught.value.status, caught.value.reason) == ("UNAUTHENTICATED", "token_expired")


def test_sign_once_unreachable(ca: FakeCa) -> None:
    there = endpoint(ca)
    ca.stop()
    with pytest.raises(CaUnavailableError):
        sign_once(there, TOKEN, CSR, 60)


def test_sign_once_works_inside_an_event_loop_too(ca: FakeCa) -> None:
    async def inside() -> list[str]:
        return sign_once(endpoint(ca), TOKEN, CSR, 60)

    assert len(asyncio.run(inside())) == 3


def test_sign_once_ends_by_ctrl_c_also_while_grpc_begins_the_call(ca: FakeCa, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the exception came before gRPC's thread that hears of a call's end, closing the channel waited for ever."""
    begin = _channel._run_channel_spin_thread
    begun_in: list[int] = []

    def interrupted(state: _channel._ChannelCallState) -> None:
        begun_in.append(threading.get_ident())
        signal.raise_signal(signal.SIGINT)
        begin(state)

    ca.hang.clear()
    monkeypatch.setattr(_channel, "_run_channel_spin_thread", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sign_once(endpoint(ca), TOKEN, CSR, 60)
    assert begun_in != [threading.get_ident()]


@pytest.mark.parametrize("roots", [b"", b"\n"], ids=["empty", "blank"])
def test_sign_once_asks_nobody_without_roots(
    ca: FakeCa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: bytes
) -> None:
    """GRPC would take those of the machine in place of none, and show them a live token."""
    (tmp_path / "machine.pem").write_bytes(ca.authority.roots_pem)
    monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(tmp_path / "machine.pem"))
    with pytest.raises(MachineError, match="no roots"):
        sign_once(replace(endpoint(ca), roots_pem=roots), TOKEN, CSR, 60)
    assert ca.calls == []
