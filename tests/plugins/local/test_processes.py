"""Processes by pid and start: found by their mark, never mistaken, stopped with a bound."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import MachineError
from meshpki_local import processes
from meshpki_local.processes import ProcessRef
from support.local_supervisor import BOUND, SLEEPER, STUBBORN, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", SLEEPER])
    yield process
    process.kill()
    process.wait()


def refer(process: subprocess.Popen[bytes]) -> ProcessRef:
    ref = processes.refer(process.pid)
    assert ref is not None
    return ref


def test_a_process_is_its_pid_and_its_start(sleeper: subprocess.Popen[bytes]) -> None:
    ref = refer(sleeper)
    assert processes.is_alive(ref)
    assert 0 <= processes.age(ref) < 60
    namesake = replace(ref, start_ticks=ref.start_ticks - 1)
    assert not processes.is_alive(namesake)
    assert processes.open_pidfd(namesake) is None
    processes.send(namesake, signal.SIGKILL)
    assert sleeper.poll() is None, "a signal for another process of the same pid reaches nobody"


def test_a_zombie_is_not_alive(sleeper: subprocess.Popen[bytes]) -> None:
    ref = refer(sleeper)
    os.kill(sleeper.pid, signal.SIGKILL)
    until(lambda: not processes.is_alive(ref), "it is dead")
    assert sleeper.returncode is None, "nobody has reaped it yet"
    assert processes.refer(sleeper.pid) is None


def test_a_name_with_brackets_does_not_confuse(tmp_path: Path) -> None:
    program = tmp_path / "a) Z 1 (b"
    program.symlink_to(sys.executable)
    process = subprocess.Popen([str(program), "-c", SLEEPER], env={**os.environ, "PYTHONHOME": sys.base_prefix})
    try:
        assert processes.start_ticks(process.pid) is not None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("source", "seconds", "end"),
    [(SLEEPER, 60, signal.SIGTERM), (STUBBORN, 0.5, signal.SIGKILL)],
    ids=["willing", "stubborn"],
)
def test_stop_asks_then_kills(tmp_path: Path, source: str, seconds: float, end: signal.Signals) -> None:
    ready = tmp_path / "ready"
    first, _, rest = source.partition("time.sleep")
    process = subprocess.Popen([sys.executable, "-c", f"{first}open({str(ready)!r}, 'w'); time.sleep{rest}"])
    until(ready.exists, "it has come up")
    processes.stop([refer(process)], seconds)
    assert process.wait(BOUND) == -end


def test_only_marked_processes_of_this_installation_are_found(tmp_path: Path) -> None:
    here, there = tmp_path / "one", tmp_path / "one more"
    marks = [processes.mark("ca", "f1", here), processes.mark("agent-a", "f2", there), None]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SLEEPER], env={**os.environ, **({processes.MARK: mark} if mark else {})}
        )
        for mark in marks
    ]
    try:
        until(lambda: processes.find(here) and processes.find(there), "both are found")
        assert [(one.name, one.fingerprint, one.ref.pid) for one in processes.find(here)] == [
            ("ca", "f1", started[0].pid)
        ]
        assert [one.ref.pid for one in processes.find(there)] == [started[1].pid]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert processes.find(here) == []


def test_spawn_appends_to_a_private_log_in_a_session_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    ref = processes.spawn([sys.executable, "-c", "import os; print(os.getsid(0) == os.getpid())"], {}, log)
    os.waitpid(ref.pid, 0)
    assert log.read_text() == "before\nTrue\n"


def test_what_we_were_started_with_is_not_handed_on(tmp_path: Path) -> None:
    """Such as the descriptor by which flock(1) holds a lock for as long as the command that it runs."""
    log, reading, writing = tmp_path / "log", *os.pipe()
    os.set_inheritable(writing, True)
    ref = processes.spawn([sys.executable, "-c", SLEEPER], {}, log)
    try:
        os.close(writing)
        os.set_blocking(reading, False)
        assert os.read(reading, 1) == b"", "nobody else has its other end"
    finally:
        os.close(reading)
        processes.stop([ref], 5)


@pytest.mark.parametrize("case", ["program", "log"])
def test_what_cannot_be_started_is_an_error_not_a_process(tmp_path: Path, case: str) -> None:
    log = tmp_path / "log"
    log.symlink_to(tmp_path / "elsewhere") if case == "log" else None
    program = sys.executable if case == "log" else str(tmp_path / "nothing")
    with pytest.raises(MachineError, match="could not start"):
        processes.spawn([program, "-c", "pass"], {}, log)
    assert not (tmp_path / "elsewhere").exists()


def test_logs_stay_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_MAX_LOG", 10)
    log = tmp_path / "log"
    for text in ("a" * 11, "b" * 11, "c"):
        processes.rotate(log)
        with log.open("a") as file:
            file.write(text)
    assert log.read_text() == "c"
    assert (tmp_path / "log.1").read_text() == "b" * 11
    assert len(list(tmp_path.iterdir())) == 2


def test_waiting_is_bounded(sleeper: subprocess.Popen[bytes]) -> None:
    begin = time.monotonic()
    assert processes.wait_gone([refer(sleeper)], 0.3) == [refer(sleeper)]
    assert time.monotonic() - begin < 20
