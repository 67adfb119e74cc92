"""Plugins as real programs: their environment, their ends, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.kube.access import Access
from meshpki.kube.credentials import ExecPlugin
from meshpki.kube.errors import KubeCredentialError
from meshpki.kube.exec_plugin import MAX_OUTPUT_BYTES, run
from support.kubeconfigs import CA_PEM, SECRET

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Make = Callable[..., ExecPlugin]

V1 = "client.authentication.k8s.io/v1"
GOOD = {"apiVersion": V1, "kind": "ExecCredential", "status": {"token": SECRET}}


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A plugin that is this Python text."""

    def program(text: str, *arguments: str) -> ExecPlugin:
        path = tmp_path / "plugin"
        path.write_text(f"#!{sys.executable} -I\nimport os, sys, json, time\n{text}\n")
        path.chmod(stat.S_IRWXU)
        return ExecPlugin(path, V1, arguments)

    return program


@pytest.fixture
def typed() -> Iterator[None]:
    """Something waits at our own standard input."""
    before, (read, write) = os.dup(0), os.pipe()
    os.write(write, b"not for plugins")
    os.close(write)
    os.dup2(read, 0)
    yield
    os.dup2(before, 0)
    for descriptor in (before, read):
        os.close(descriptor)


def access(plugin: ExecPlugin) -> Access:
    return Access("https://host", CA_PEM.encode(), plugin)


def test_a_plugin_is_run_without_shell_terminal_or_our_secrets(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: None
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "not yours")
    seen = tmp_path / "seen"
    plugin = make(
        f"""
seen = dict(argv=sys.argv[1:], env=dict(os.environ), stdin=sys.stdin.read(), cwd=os.getcwd(),
            session=os.getsid(0) == os.getpid(), fds=sorted(os.listdir("/proc/self/fd")))
open({str(seen)!r}, "w").write(json.dumps(seen))
print({json.dumps(GOOD)!r})""",
        "get-token", "$(id)", "a b",
    )  # fmt: skip
    assert run(plugin, access(plugin)).token == SECRET
    told = json.loads(seen.read_text())
    assert told["argv"] == ["get-token", "$(id)", "a b"]
    assert told["stdin"] == ""
    assert told["cwd"] == "/"
    assert told["session"]
    assert len(told["fds"]) <= 4, "standard streams, and the directory that is being listed"
    assert "GITHUB_TOKEN" not in told["env"]
    assert json.loads(told["env"]["KUBERNETES_EXEC_INFO"])["spec"] == {"interactive": False}


def test_a_plugin_that_fails_is_quoted_without_what_may_be_secret(make: Make) -> None:
    plugin = make(f"sys.stderr.write('first\\nrefresh {SECRET * 2} expired: log in\\x1b[0m\\n\\n'); sys.exit(3)")
    with pytest.raises(KubeCredentialError) as caught:
        run(plugin, access(plugin))
    assert "failed with status 3: refresh ... expired: log in" in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert f"run {plugin.command} by hand" in caught.value.todo


@pytest.fixture
def waiting(make: Make, tmp_path: Path) -> tuple[ExecPlugin, Path]:
    """A plugin that starts a program and waits, and the file in which both tell their process ids."""
    ids = tmp_path / "ids"
    plugin = make(f"""
import subprocess
child = subprocess.Popen(["sleep", "600"])
open({str(ids) + ".new"!r}, "w").write(f"{{os.getpid()}} {{child.pid}}")
os.rename({str(ids) + ".new"!r}, {str(ids)!r})
time.sleep(600)""")
    return plugin, ids


def all_ended(ids: Path) -> None:
    deadline = time.monotonic() + 60
    while any(_alive(int(pid)) for pid in ids.read_text().split()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_plugin_that_waits_is_ended_with_all_it_started(waiting: tuple[ExecPlugin, Path]) -> None:
    plugin, ids = waiting
    for seconds in (3, 10, 30):  # it has to come so far first
        with pytest.raises(KubeCredentialError, match="gave no answer in time, and was ended"):
            run(plugin, access(plugin), timeout_seconds=seconds)
        if ids.exists():
            break
    all_ended(ids)


def test_ctrl_c_ends_a_plugin_with_all_it_started(waiting: tuple[ExecPlugin, Path]) -> None:
    plugin, ids = waiting

    def press() -> None:
        while not ids.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    presses = threading.Thread(target=press, daemon=True)
    presses.start()
    with pytest.raises(KeyboardInterrupt):
        run(plugin, access(plugin), timeout_seconds=120)
    presses.join()
    all_ended(ids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_plugin_that_closes_its_streams_and_stays_is_ended(make: Make) -> None:
    plugin = make("os.close(1); os.close(2); time.sleep(600)")
    with pytest.raises(KubeCredentialError, match="gave no answer in time"):
        run(plugin, access(plugin), timeout_seconds=1)


def test_a_plugin_that_prints_without_end_is_ended(make: Make) -> None:
    plugin = make("while True: sys.stdout.write('x' * 65536)")
    with pytest.raises(KubeCredentialError, match="prints without end"):
        run(plugin, access(plugin))


def test_much_on_both_streams_does_not_block(make: Make) -> None:
    size = MAX_OUTPUT_BYTES // 2
    plugin = make(f"sys.stderr.write('e' * {size}); print(' ' * {size} + {json.dumps(GOOD)!r})")
    assert run(plugin, access(plugin)).token == SECRET


@pytest.mark.parametrize("kind", ["missing", "directory", "not executable", "null byte"])
def test_what_cannot_be_started_says_so(kind: str, make: Make, tmp_path: Path) -> None:
    plugin = make("", *(["a\0b"] if kind == "null byte" else []))
    match kind:
        case "missing":
            plugin.command.unlink()
        case "directory":
            plugin.command.unlink()
            plugin.command.mkdir()
        case "not executable":
            plugin.command.chmod(0o600)
            if os.access(plugin.command, os.X_OK):
                pytest.skip("this user may execute anything")
    with pytest.raises(KubeCredentialError, match=r"could not be started.*to do: check the path"):
        run(plugin, access(plugin))
