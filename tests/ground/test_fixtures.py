"""What the fixtures do themselves, without a server: flags, marks, empty answers, what the user sees of a fill."""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import jwt
import pytest

from support.kube import ApiServer, NotStartedError
from support.kube.account_key import AccountKey
from support.kube.flags import Files, command_line
from support.kube.process import PORTS, ServerProcess, free_port
from support.kube_assets.progress import Progress
from support.kube_assets.releases import Release

if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = Files(*(Path("/f") / name for name in ("ca", "crt", "key", "tokens", "sa.pub", "sa.key", "work")))
PODS = "/api/v1/namespaces/default/pods"


def flags(release: Release = Release.MODERN, issuers: tuple[str, ...] = ("https://a",), *extra: str) -> list[str]:
    return command_line(release, 6443, "http://e", FILES, issuers, extra)


PICKY = """
import pytest

@pytest.mark.parametrize("age", ["kube_113", "kube_130"])
def test_by_name(age, request):
    request.getfixturevalue(age)

def test_with_flags(shared_api_servers):
    pass

@pytest.mark.parametrize("word", ["kube", 7])
def test_of_words(word):
    pass
"""


def test_what_starts_servers_is_marked_and_grouped_however_it_asks_for_them(tmp_path: Path) -> None:
    """Or `make test-fast` starts them, and two ages at once run where memory is for one."""
    (tmp_path / "test_picky.py").write_text(PICKY)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "support.kube.plugin", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}

    def collected(*more: str) -> list[str]:
        run = subprocess.run(
            [*command, "--collect-only", "-o", "markers=e2e\nkube", "-c", "/dev/null", *more, "test_picky.py"],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        return [line.partition("::")[2] for line in run.stdout.splitlines() if "::" in line]

    assert collected("-m", "not e2e and not kube") == ["test_of_words[kube]", "test_of_words[7]"]
    assert collected("-m", "e2e and kube") == ["test_by_name[kube_113]", "test_by_name[kube_130]", "test_with_flags"]


def test_token_request_takes_issuer_key_and_audiences_together() -> None:
    wanted = ["--service-account-issuer=https://a", "--service-account-issuer=b"]
    found = flags(Release.MODERN, ("https://a", "b"))
    assert [flag for flag in found if flag.startswith("--service-account-issuer")] == wanted
    assert "--api-audiences=https://a,b" in found
    assert "--service-account-signing-key-file=/f/sa.key" in found


def test_without_an_issuer_there_is_none_of_them() -> None:
    names = {flag.partition("=")[0] for flag in flags(Release.FOUNDING, ())}
    assert not names & {"--service-account-issuer", "--api-audiences", "--service-account-signing-key-file"}
    assert "--service-account-key-file" in names


def test_the_oldest_age_serves_nothing_in_the_open() -> None:
    assert "--insecure-port=0" in flags(Release.FOUNDING)
    assert not any(flag.startswith("--insecure") for flag in flags(Release.MODERN) + flags(Release.MIDDLE))


def test_a_named_flag_takes_the_place_of_ours() -> None:
    assert "--authorization-mode=Node,RBAC" in flags()
    found = flags(Release.MODERN, ("https://a",), "--authorization-mode=RBAC", "--v=4")
    assert [flag for flag in found if flag.startswith("--authorization-mode")] == ["--authorization-mode=RBAC"]
    assert found[-1] == "--v=4"


class Scripted(ApiServer):
    """An API server that is not there: it answers what the test wrote down."""

    def __init__(self, *answers: tuple[int, bytes]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        token: str | None = None,
        content_type: str = "application/json",
        timeout: float = 30,
    ) -> tuple[int, bytes]:
        self.asked.append(f"{method} {path}")
        return self.answers.pop(0)


EMPTY = (200, b"")
POD = json.dumps({"metadata": {"uid": "u1"}}).encode()


@pytest.mark.parametrize(
    ("answers", "asked"),
    [
        ([(201, POD)], [f"POST {PODS}"]),
        ([EMPTY, (201, POD)], [f"POST {PODS}"] * 2),
        ([EMPTY, (409, b"{}"), (200, POD)], [f"POST {PODS}", f"POST {PODS}", f"GET {PODS}/p"]),
        ([EMPTY, EMPTY, (409, b"{}"), (200, POD)], [*[f"POST {PODS}"] * 3, f"GET {PODS}/p"]),
    ],
)
def test_an_empty_answer_to_a_create_is_looked_into(answers: list[tuple[int, bytes]], asked: list[str]) -> None:
    server = Scripted(*answers)
    assert server.create_pod("default", "p", "web") == "u1"
    assert server.asked == asked


def test_an_empty_answer_to_a_delete_is_looked_into() -> None:
    server = Scripted(EMPTY, (404, b"{}"))
    server.delete_pod("default", "p")
    assert server.answers == []


@pytest.mark.parametrize("answer", [(403, b"{}"), (409, b"{}"), (500, b"oh")])
def test_a_refusal_fails_the_test_with_what_was_said(answer: tuple[int, bytes]) -> None:
    with pytest.raises(AssertionError, match=rf"POST {PODS}: {answer[0]} {answer[1].decode()}"):
        Scripted(answer).create_pod("default", "p", "web")


def test_an_object_that_was_there_before_is_no_empty_answer() -> None:
    with pytest.raises(AssertionError, match="404"):
        Scripted((404, b"{}")).delete_pod("default", "p")


def test_a_program_that_ends_or_never_serves(tmp_path: Path) -> None:
    ends = ServerProcess([sys.executable, "-c", "print('the reason', flush=True); raise SystemExit(3)"], tmp_path / "a")
    ends.start()
    with pytest.raises(NotStartedError, match=r"(?s)ended with exit status 3; its log ends:\n.*the reason"):
        ends.wait_until(lambda: False, 60)
    hangs = ServerProcess([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "b")
    hangs.start()
    with pytest.raises(NotStartedError, match="was not ready within 0 s"):
        hangs.wait_until(lambda: False, 0.2)
    assert not hangs.running


def test_a_stubborn_program_is_killed_in_the_end(tmp_path: Path) -> None:
    source = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    stubborn = ServerProcess([sys.executable, "-c", source], tmp_path / "log")
    stubborn.start()
    stubborn.wait_until(lambda: "up" in stubborn.tail(), 60)
    stubborn.stop(0.1)
    assert not stubborn.running
    stubborn.stop(0.1)
    stubborn.kill()


def test_ports_are_free_and_never_the_kernels() -> None:
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    port = free_port()
    assert port in PORTS
    assert PORTS.stop <= low or low < 20000
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", port))


def test_the_keys_files_and_legacy_tokens(tmp_path: Path) -> None:
    key = AccountKey(tmp_path)
    assert key.private_file.stat().st_mode & 0o777 == 0o600
    token = key.legacy_token("ns", "web", "u", "web-token-1", with_kid=False)
    assert jwt.get_unverified_header(token) == {"alg": "RS256", "kid": ""}
    claims = jwt.decode(token, key.public_file.read_bytes(), ["RS256"])
    assert (claims["iss"], "aud" in claims, "exp" in claims) == ("kubernetes/serviceaccount", False, False)
    for with_kid in (True, False):
        (entry,) = json.loads(key.jwks(with_kid=with_kid))["keys"]
        assert entry.get("kid") == (key.kid if with_kid else None)
        assert "d" not in entry


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def count_by_fives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own clock alone: other threads of this process look at the true one."""
    clock = iter(range(0, 1000, 5))
    monkeypatch.setattr("support.kube_assets.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))


def test_a_terminal_has_one_moving_line(monkeypatch: pytest.MonkeyPatch) -> None:
    count_by_fives(monkeypatch)
    out = Terminal()
    shown = Progress(out)
    shown.step("build")
    shown.tick("1 of 2")
    shown.tick("2 of 2")
    shown.step("done")
    shown.close()
    assert out.getvalue() == "build\n\r\x1b[K  0:05 1 of 2\r\x1b[K  0:10 2 of 2\r\x1b[Kdone\n"


def test_a_log_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    count_by_fives(monkeypatch)
    out = io.StringIO()
    shown = Progress(out)
    shown.step("build")
    for number in range(7):
        shown.tick(f"{number}")
    shown.close()
    assert out.getvalue() == "build\n  0:15 2\n  0:30 5\n"
