"""The supervisor from outside: a start that fails, an update of the program, what stays after an undone update."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import MachineError
from meshpki.hooks import EffectState
from meshpki_local import control
from meshpki_local.effects.supervisor import SupervisorProcess
from meshpki_local.layout import Layout
from meshpki_local.settings import Settings
from support import local_supervisor as support
from support.local_supervisor import SLEEPER, WEB, pids, prepare, record, running, until
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e


@pytest.fixture
def state() -> Iterator[Path]:
    with support.short_directory() as path:
        yield path
        if path.exists():
            control.stop(Layout(path))


def silent(_: str) -> None:
    pass


def test_a_start_that_fails_is_told_at_once_with_the_log(state: Path) -> None:
    layout = prepare(state, {})
    layout.installation.unlink()
    begin = time.monotonic()
    with pytest.raises(MachineError, match="did not start") as caught:
        control.start(layout)
    assert time.monotonic() - begin < 20
    assert any("holds no local installation" in line for line in caught.value.evidence)
    assert control.running(layout) is None


def test_a_start_returns_and_leaves_no_child_of_ours(state: Path) -> None:
    layout = prepare(state, {})
    layout.installation.write_bytes(layout.installation.read_bytes())
    control.start(layout)
    ref = control.running(layout)
    assert ref is not None
    with pytest.raises(ChildProcessError):
        os.waitpid(ref.pid, os.WNOHANG)
    assert control.stop(layout)
    assert control.running(layout) is None
    assert pids(layout) == {}
    assert not control.stop(layout), "nothing left to stop is no error"


def test_stop_ends_what_a_killed_supervisor_left(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout):
        until(lambda: len(pids(layout)) == 1, "it runs")
    assert len(pids(layout)) == 1
    assert control.stop(layout)
    assert pids(layout) == {}


def test_a_supervisor_of_another_version_is_replaced(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout) as old:
        until(lambda: len(pids(layout)) == 1, "it runs")
        started: list[Layout] = []
        monkeypatch.setattr("meshpki.__version__", "9.9")
        monkeypatch.setattr(control, "start", started.append)
        monkeypatch.setattr("meshpki_local.effects.supervisor.check_free", lambda _: None)
        effect = SupervisorProcess(layout, Settings(workloads=(WEB,)))
        assert "the supervisor is version" in effect.observe().detail
        effect.apply(silent)
        assert old.wait(60) == 0
        assert started == [layout]
        assert pids(layout) == {}


def test_undoing_an_update_leaves_the_supervisor_at_work(state: Path) -> None:
    layout = prepare(state, {"ca": SLEEPER})
    with running(layout) as process:
        until(lambda: len(pids(layout)) == 1, "it runs")
        effect = SupervisorProcess(layout, Settings(workloads=(WEB,)))
        assert effect.observe().state is EffectState.DIFFERENT
        before = effect.undo_record()
        effect.apply(silent)
        effect.undo(before, silent)
        assert process.poll() is None
        assert len(pids(layout)) == 1
        effect.undo({"ran": False}, silent)
        assert process.wait(60) == 0
    assert not layout.run.exists()
    assert not layout.logs.exists()
    assert pids(layout) == {}


def test_the_end_of_a_log_is_shown_without_secrets(tmp_path: Path) -> None:
    log = tmp_path / "log"
    token = TokenMaker().token().decode()
    log.write_text("".join(f"line {number}\n" for number in range(10_000)) + f"the token {token}\n")
    last = control.tail(log, 2)
    assert last[0] == "line 9999"
    assert last[1] == "the token [redacted]"
    assert control.tail(tmp_path / "gone", 2) == ()


def test_a_reload_without_a_supervisor_says_so(tmp_path: Path) -> None:
    assert not control.reload(Layout(tmp_path))
    assert control.record(Layout(tmp_path)) is None


def test_a_record_of_a_supervisor_that_is_gone_is_not_believed(state: Path) -> None:
    layout = prepare(state, {})
    with running(layout) as process:
        assert record(layout).pid == process.pid
        process.kill()
        process.wait()
        assert layout.run_file.exists()
        assert control.record(layout) is None


def test_run_by_hand_without_a_directory_it_says_what_to_do() -> None:
    done = subprocess.run([sys.executable, "-m", "meshpki_local"], capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert b"meshpki run --platform local" in done.stderr
