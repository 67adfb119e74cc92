"""The agent as a process, against a CA that really signs and misbehaves on request."""

from __future__ import annotations

import contextlib
import signal
import socket
import stat
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from support.agent_process import CANARY, PATIENCE, AgentFiles, AgentProcess, fake_token, wait_until
from support.fake_ca import SERVER_NAME, SPIFFE_ID, FakeAuthority

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.fake_ca import FakeCa

pytestmark = pytest.mark.e2e


def serial(files: AgentFiles) -> str:
    return str(files.read_status().get("serial", ""))


def fault(files: AgentFiles) -> str:
    failure = files.read_status().get("last_failure") or {}
    return f"{failure.get('kind')}/{failure.get('reason')}"


def state(files: AgentFiles) -> object:
    return files.read_status().get("state")


def check_pair(directory: Path) -> x509.Certificate:
    """The served files belong together; gives the leaf."""
    for _ in range(5):
        with contextlib.suppress(FileNotFoundError):  # two renewals while we looked: look again
            return pair_in(directory / (directory / "..data").readlink())
    raise AssertionError(f"no pair in {directory}")


def pair_in(data: Path) -> x509.Certificate:
    key = serialization.load_pem_private_key((data / "key.pem").read_bytes(), None)
    leaf = x509.load_pem_x509_certificates((data / "cert-chain.pem").read_bytes())[0]
    assert key.public_key() == leaf.public_key()
    return leaf


def test_serves_and_says_so_and_leaves_no_socket(ca: FakeCa, files: AgentFiles) -> None:
    token = files.write_token(expires_at=time.time() + 600, tail="\n")
    with AgentProcess(files.config(ca), files.log) as agent:
        wait_until(files.socket.is_socket, "a socket")
        wait_until(lambda: state(files) == "fresh", "fresh")
        status = files.read_status()
        leaf = check_pair(files.certs)
        assert status["spiffe_id"] == SPIFFE_ID
        assert status["serial"] == f"{leaf.serial_number:x}"
        assert status["not_after"] == int(leaf.not_valid_after_utc.timestamp())
        assert 0.45 * 3600 - 60 < status["renew_at"] - time.time() < 0.55 * 3600
        assert status["last_failure"] is None
        assert stat.S_IMODE(files.socket.stat().st_mode) == 0o660
        assert stat.S_IMODE((files.certs / "key.pem").stat().st_mode) == 0o600
        assert stat.S_IMODE(files.status.stat().st_mode) == 0o600
        assert ca.calls[0].header("authorization") == [f"Bearer {token}"]
        assert agent.stop() == 0
    assert not files.socket.exists()
    assert (files.certs / "key.pem").exists(), "files outlive the agent: programs go on with them"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stops_while_the_ca_hangs(ca: FakeCa, files: AgentFiles, number: signal.Signals) -> None:
    ca.hang.clear()
    with AgentProcess(files.config(ca), files.log) as agent:
        ca.wait_for_calls(1)
        assert not files.socket.exists(), "no socket before there is something to serve"
        assert agent.stop(number) == 0


def test_renews_before_half_of_the_life_is_over_with_a_new_key_each_time(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 3
    with AgentProcess(files.config(ca, ttl_seconds=3), files.log):
        ca.wait_for_calls(4)
        wait_until(lambda: state(files) == "fresh", "fresh")
        assert len({call.csr for call in ca.calls}) == len(ca.calls)
        assert all(call.validity_seconds == 3 for call in ca.calls)
        check_pair(files.certs)


REFUSED = [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT]
BUSY = [
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNIMPLEMENTED,
]


@pytest.mark.parametrize("status", BUSY)
def test_a_tired_ca_is_asked_again_and_the_old_certificate_is_served(
    ca: FakeCa, files: AgentFiles, status: grpc.StatusCode
) -> None:
    ca.life = 6
    with AgentProcess(files.config(ca), files.log):
        ca.wait_for_calls(1)
        wait_until(lambda: serial(files), "a certificate")
        ca.status = status
        wait_until(lambda: fault(files) == f"network/{status.name.lower()}", "the reason")
        assert state(files) in {"overdue", "expired"}, "which of them is a matter of time"
        assert files.read_status()["serial"] == f"{check_pair(files.certs).serial_number:x}"
        assert files.socket.is_socket()
        ca.status = None
        wait_until(lambda: state(files) == "fresh", "fresh again")
    assert "no renewal: the CA gave no answer" in files.log.read_text()


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ("review_unavailable: the API server does not answer", "review_unavailable"),
        ("not_found_here", "not_found_here"),
        ("too busy", "unavailable"),
        ("busy", "unavailable"),
    ],
)
def test_the_cas_own_word_is_recorded_where_it_gives_no_verdict(
    ca: FakeCa, files: AgentFiles, message: str, reason: str
) -> None:
    ca.status, ca.message = grpc.StatusCode.UNAVAILABLE, message
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: fault(files) == f"network/{reason}", reason)
        assert state(files) == "failed"
    assert f'"reason": "{reason}"' in files.log.read_text()


@pytest.mark.parametrize("status", REFUSED)
def test_a_refusal_is_asked_again_slowly_but_at_once_with_a_new_token(
    ca: FakeCa, files: AgentFiles, status: grpc.StatusCode
) -> None:
    ca.status, ca.message = status, "token_not_bound: no pod in it"
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: state(files) == "denied", "denied")
        assert fault(files) == "verdict/token_not_bound"
        status_now = files.read_status()
        assert status_now["renew_at"] - status_now["last_failure"]["at"] > 20
        calls = len(ca.calls)
        ca.status = None
        token = files.write_token(expires_at=time.time() + 600, mark="new")
        wait_until(lambda: state(files) == "fresh", "fresh", seconds=20)
        assert len(ca.calls) == calls + 1
        assert ca.calls[-1].header("authorization") == [f"Bearer {token}"]
    assert "no renewal: the CA refused" in files.log.read_text()


def test_a_certificate_is_kept_through_a_denial(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 8
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: serial(files), "a certificate")
        ca.status = grpc.StatusCode.UNAUTHENTICATED
        wait_until(lambda: fault(files).startswith("verdict/"), "denied")
        assert state(files) in {"denied", "expired"}, "which of them is a matter of time"
        assert serial(files)
        assert files.socket.is_socket()


def test_an_expired_token_is_said_once_and_not_sent(ca: FakeCa, files: AgentFiles) -> None:
    files.write_token(expires_at=time.time() - 5)
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: fault(files) == "token/token_expired", "the reason")
        assert state(files) == "failed"
        time.sleep(3)  # at least two more looks at the file
        assert ca.calls == []
        warnings = [line for line in files.log.read_text().splitlines() if '"warning"' in line]
        assert len([line for line in warnings if "token_expired" in line]) == 1
        files.write_token(expires_at=time.time() + 600)
        wait_until(lambda: state(files) == "fresh", "fresh")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "token_missing"), ("", "token_missing"), ("\n", "token_missing"), ("eyJhbGciOiJ", "token_malformed")],
)
def test_a_token_file_that_is_not_ready_is_waited_for(
    ca: FakeCa, files: AgentFiles, content: str | None, reason: str
) -> None:
    files.token.unlink()
    if content is not None:
        files.token.write_text(content)
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: fault(files) == f"token/{reason}", reason)
        assert ca.calls == []
        files.write_token(expires_at=time.time() + 600)
        wait_until(lambda: state(files) == "fresh", "fresh")


def other_root(chain: list[str]) -> list[str]:
    return [*chain[:-1], FakeAuthority().root.pem]


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (other_root, "chain_broken"),
        (lambda chain: chain[:1], "chain_length"),
        (lambda chain: ["garbage"] * 3, "chain_malformed"),
    ],
)
def test_an_answer_that_is_no_good_replaces_nothing(
    ca: FakeCa, files: AgentFiles, alter: Callable[[list[str]], list[str]], reason: str
) -> None:
    ca.life = 6
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: serial(files), "a certificate")
        before = serial(files)
        ca.alter = alter
        wait_until(lambda: fault(files) == f"answer/{reason}", reason)
        assert serial(files) == before
        assert f"{check_pair(files.certs).serial_number:x}" == before


def test_a_certificate_for_somebody_elses_key_replaces_nothing(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 6
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: serial(files), "a certificate")
        before, replayed = serial(files), ca.authority.answer(ca.calls[0].csr)
        ca.alter = lambda chain: replayed
        wait_until(lambda: fault(files) == "answer/other_key", "the reason")
        assert serial(files) == before


def test_another_identity_than_before_is_refused(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 6
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: serial(files), "a certificate")
        ca.alter = lambda chain: ca.authority.answer(ca.calls[-1].csr, uri=SPIFFE_ID + "2")
        wait_until(lambda: fault(files) == "answer/identity_changed", "the reason")
        assert files.read_status()["spiffe_id"] == SPIFFE_ID


def test_a_ca_that_hangs_is_overdue_after_the_deadline_and_expires_in_the_end(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 6
    with AgentProcess(files.config(ca, call_seconds=2), files.log):
        wait_until(lambda: serial(files), "a certificate")
        ca.hang.clear()
        wait_until(lambda: fault(files) == "network/deadline_exceeded", "the reason")
        assert state(files) in {"overdue", "expired"}, "which of them is a matter of time"
        wait_until(lambda: state(files) == "expired", "expired")
        assert files.socket.is_socket()
        ca.hang.set()
        wait_until(lambda: state(files) == "fresh", "fresh again")
    assert "has expired" in files.log.read_text()


def test_a_ca_that_takes_half_a_minute_is_given_up_at_the_usual_deadline_and_asked_again(
    ca: FakeCa, files: AgentFiles
) -> None:
    """Nothing shortened: calls of 10 s to a CA that answers each after 30 s."""
    ca.hang.clear()
    began = time.monotonic()
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: fault(files) == "network/deadline_exceeded", "the first call given up")
        assert time.monotonic() - began > 9
        wait_until(lambda: len(ca.calls) >= 3, "asked again and again")
        assert time.monotonic() - began > 20
        assert state(files) == "failed"
        assert not files.socket.exists(), "no socket before there is something to serve"
        ca.hang.set()
        wait_until(lambda: state(files) == "fresh", "fresh")


def test_a_ca_that_is_not_there_yet_is_waited_for_and_roots_are_read_anew(ca: FakeCa, files: AgentFiles) -> None:
    ca.stop()
    good = files.roots.read_bytes()
    files.roots.write_bytes(FakeAuthority().roots_pem)
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: fault(files) == "network/unavailable", "the reason")
        assert state(files) == "failed"
        assert not files.socket.exists()
        ca.start()
        files.roots.write_bytes(good)
        wait_until(lambda: state(files) == "fresh", "fresh")


def test_killed_and_started_again_it_takes_its_own_dead_socket_over(ca: FakeCa, files: AgentFiles) -> None:
    agent = AgentProcess(files.config(ca), files.log)
    for _ in range(2):
        with agent:
            wait_until(lambda: state(files) == "fresh" and files.socket.is_socket(), "fresh")
            before = serial(files)
            agent.kill()
            assert files.socket.is_socket()
    with agent:
        wait_until(lambda: serial(files) not in {"", before}, "a new certificate")
        check_pair(files.certs)
    assert not files.socket.exists()
    assert list(files.socket.parent.iterdir()) == []


def test_a_second_agent_on_the_same_socket_is_refused(ca: FakeCa, files: AgentFiles) -> None:
    with AgentProcess(files.config(ca), files.log):
        wait_until(files.socket.is_socket, "a socket")
        second = AgentProcess(files.config(ca), files.directory / "second.log").start()
        assert second.process is not None
        assert second.process.wait(PATIENCE) == 1
        assert "already listens" in (files.directory / "second.log").read_text()
        with closing(socket.socket(socket.AF_UNIX)) as client:
            client.connect(str(files.socket))


def test_a_full_disk_under_the_files_does_not_stop_sds(ca: FakeCa, files: AgentFiles) -> None:
    """A directory where the next set's name cannot be made stands in for a full disk: both fail in the write."""
    ca.life = 3
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: serial(files), "a certificate")
        aside = files.directory / "aside"
        files.certs.rename(aside)
        files.certs.write_text("in the way")
        before = len(ca.calls)
        ca.wait_for_calls(before + 2)
        wait_until(lambda: "could not be written" in files.log.read_text(), "a word about it")
        wait_until(lambda: state(files) == "fresh", "fresh")
        files.certs.unlink()
        aside.rename(files.certs)
        wait_until(lambda: f"{check_pair(files.certs).serial_number:x}" == serial(files), "the files caught up")


def test_no_token_and_no_key_in_log_or_status(ca: FakeCa, files: AgentFiles) -> None:
    """The log is at debug level, and every branch that handles a token is gone through."""
    ca.life = 2
    key = b""
    with AgentProcess(files.config(ca), files.log) as agent:
        wait_until(lambda: serial(files), "a certificate")
        key = (files.certs / "key.pem").read_bytes()
        ca.status, ca.message = grpc.StatusCode.UNAUTHENTICATED, files.token.read_text()
        wait_until(lambda: "the CA refused" in files.log.read_text(), "a refusal that echoes the token")
        expiry = time.time() + 3600
        token = fake_token(expires_at=expiry)
        ca.status, ca.message = grpc.StatusCode.UNAVAILABLE, f"authorization: Bearer {token}"
        files.write_token(expires_at=expiry)  # last: it is sent at once
        wait_until(lambda: fault(files) == "network/unavailable", "an error that echoes it")
        files.write_token(expires_at=time.time() - 60)
        wait_until(lambda: fault(files) == "token/token_expired", "an expired one")
        files.token.write_text(token[:60])
        wait_until(lambda: fault(files) == "token/token_malformed", "a broken one")
        assert agent.process is not None
        process = Path("/proc") / str(agent.process.pid)
        (files.directory / "cmdline").write_bytes(
            (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        )
    for path in (files.log, files.status, files.directory / "cmdline"):
        text = path.read_bytes()
        assert CANARY.encode() not in text
        assert token.encode() not in text
        assert b"eyJ" not in text.replace(b"[redacted]", b"")
        assert b"PRIVATE KEY" not in text
        assert not any(line in text for line in key.splitlines() if len(line) > 40)


def test_a_face_that_cannot_be_shown_is_an_error_at_the_start(ca: FakeCa, files: AgentFiles) -> None:
    files.socket.parent.mkdir(mode=0o750)
    files.socket.write_text("precious")
    agent = AgentProcess(replace(files.config(ca), ca_server_name=SERVER_NAME), files.log).start()
    assert agent.process is not None
    assert agent.process.wait(PATIENCE) == 1
    assert "no socket" in files.log.read_text()
    assert files.socket.read_text() == "precious"
    assert ca.calls == []
