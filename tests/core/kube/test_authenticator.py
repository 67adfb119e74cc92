"""Credentials are read again as they rotate, kept when they cannot be, and given up when they have expired."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.kube import exec_plugin
from meshpki.kube.access import Access
from meshpki.kube.authenticator import Authenticator, KeyPair, Presented
from meshpki.kube.credentials import ClientCertificate, ExecPlugin, NamedFile, TokenFile, TokenText
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.exec_credential import ExecCredential
from support.kubeconfigs import CA_PEM, SECRET

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.kube.credentials import Credential


class Times:
    """Both clocks in one, which stand still until told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def times() -> Times:
    return Times()


def authenticator(credential: Credential, times: Times) -> Authenticator:
    return Authenticator(Access("https://host", CA_PEM.encode(), credential), monotonic=times, clock=times)


def test_a_token_file_is_read_again_once_a_second(tmp_path: Path, times: Times) -> None:
    path = tmp_path / "token"
    path.write_text("one\n")
    ours = authenticator(TokenFile(NamedFile(path)), times)
    assert ours.presented().token == "one"
    path.write_text("two")
    times.now += 0.9
    assert ours.presented().token == "one"
    times.now += 0.2
    assert ours.presented().token == "two"


def test_a_401_reads_at_once_and_tells_whether_there_is_another(tmp_path: Path, times: Times) -> None:
    path = tmp_path / "token"
    path.write_text("one")
    ours = authenticator(TokenFile(NamedFile(path)), times)
    refused = ours.presented()
    assert not ours.renewed(refused)
    path.write_text("two")
    assert ours.renewed(refused)
    assert ours.presented().token == "two"
    assert ours.renewed(refused), "another thread renewed it already"


def test_what_was_good_is_kept_while_the_file_is_broken(
    tmp_path: Path, times: Times, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "token"
    path.write_text(SECRET)
    ours = authenticator(TokenFile(NamedFile(path)), times)
    ours.presented()
    for broken in (b"", b"two words", b"\xff\xfe", b"x" * (1 << 21)):
        path.write_bytes(broken)
        times.now += 2
        assert ours.presented().token == SECRET
        times.now += 2
        assert ours.presented().token == SECRET
    path.unlink()
    times.now += 2
    assert ours.presented().token == SECRET
    assert len(caplog.records) == len({record.why for record in caplog.records}), "once per cause"  # type: ignore[attr-defined]
    assert SECRET not in caplog.text
    path.write_text("new")
    times.now += 2
    assert ours.presented().token == "new"


@pytest.mark.parametrize("content", [None, b"", b" \n", b"two words", b"caf\xc3\xa9", b"a\nb"])
def test_no_token_at_first_is_an_error_that_shows_nothing(content: bytes | None, tmp_path: Path, times: Times) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KubeCredentialError) as caught:
        authenticator(TokenFile(NamedFile(path)), times).presented()
    assert str(path) in str(caught.value)
    assert "words" not in str(caught.value)


def test_certificates_come_from_data_and_from_files(tmp_path: Path, times: Times) -> None:
    (tmp_path / "key").write_bytes(b"KEY")
    ours = authenticator(ClientCertificate(b"CERT", NamedFile(tmp_path / "key")), times)
    assert ours.presented() == Presented(pair=KeyPair(b"CERT", b"KEY"))
    assert "KEY" not in repr(ours.presented()).replace("KeyPair", "")


def test_a_token_in_the_kubeconfig_stays(times: Times) -> None:
    ours = authenticator(TokenText(SECRET), times)
    assert ours.presented() == Presented(SECRET)
    assert not ours.renewed(Presented(SECRET))
    assert SECRET not in repr(ours.presented())


# --- plugins

Run = list[ExecCredential | KubeCredentialError]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Run:
    """What the plugin answers, in turn; each is taken once."""
    waiting: Run = []

    def run(plugin: ExecPlugin, access: Access) -> ExecCredential:
        answer = waiting.pop(0)
        if isinstance(answer, KubeCredentialError):
            raise answer
        return answer

    monkeypatch.setattr(exec_plugin, "run", run)
    return waiting


def plugged(times: Times) -> Authenticator:
    return authenticator(ExecPlugin(Path("/opt/login"), "client.authentication.k8s.io/v1"), times)


def test_a_plugin_runs_when_its_credential_is_about_to_expire(times: Times, answers: Run) -> None:
    answers += [ExecCredential("one", expires_at=1060), ExecCredential("two", expires_at=1120)]
    ours = plugged(times)
    assert ours.presented().token == "one"
    times.now = 1049
    assert ours.presented().token == "one"
    times.now = 1050
    assert ours.presented().token == "two"


def test_without_an_end_it_runs_again_after_a_401_only(times: Times, answers: Run) -> None:
    answers += [ExecCredential("one"), ExecCredential("two")]
    ours = plugged(times)
    first = ours.presented()
    times.now += 1_000_000
    assert ours.presented() == first
    assert ours.renewed(first)
    assert ours.presented().token == "two"


def test_a_server_that_refuses_everything_does_not_run_it_each_time(times: Times, answers: Run) -> None:
    answers += [ExecCredential("one"), ExecCredential("two")]
    ours = plugged(times)
    first = ours.presented()
    times.now += 5
    assert not ours.renewed(first)
    times.now += 6
    assert ours.renewed(first)
    assert not ours.renewed(ours.presented())
    assert not answers


def test_a_plugin_that_fails_leaves_what_is_still_good(times: Times, answers: Run) -> None:
    failure = KubeCredentialError("/opt/login failed", todo="log in")
    answers += [ExecCredential("one", expires_at=1060), failure, failure, ExecCredential("two", expires_at=2000)]
    ours = plugged(times)
    ours.presented()
    times.now = 1055
    assert ours.presented().token == "one"
    assert len(answers) == 2
    times.now = 1061
    with pytest.raises(KubeCredentialError, match="/opt/login failed; to do: log in"):
        ours.presented()
    assert len(answers) == 2, "not run again so soon after it failed"
    times.now = 1066
    with pytest.raises(KubeCredentialError):
        ours.presented()
    times.now = 1080
    assert ours.presented().token == "two"


def test_a_credential_that_is_expired_already_is_refused(times: Times, answers: Run) -> None:
    answers += [ExecCredential("one", expires_at=999)]
    with pytest.raises(KubeCredentialError, match="expired already; to do: log in again"):
        plugged(times).presented()


def test_many_threads_run_it_once(times: Times, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, inside = [], threading.Event()

    def run(plugin: ExecPlugin, access: Access) -> ExecCredential:
        runs.append(plugin)
        inside.wait(60)
        return ExecCredential("one")

    monkeypatch.setattr(exec_plugin, "run", run)
    ours = plugged(times)
    got: list[str] = []
    threads = [_start(lambda: got.append(ours.presented().token)) for _ in range(8)]
    inside.set()
    for thread in threads:
        thread.join(60)
    assert (got, len(runs)) == (["one"] * 8, 1)


def _start(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread
