"""The last net: finds what works in the directory and nothing else, and ends it, willing or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki_demo import leftovers

if TYPE_CHECKING:
    from collections.abc import Iterator

SLEEP = "import signal, sys, time; {}; print('up', flush=True); time.sleep(60)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(started: list[subprocess.Popen[str]], argument: Path, code: str = "pass") -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", SLEEP.format(code), str(argument)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def test_processes_that_name_the_directory_are_found(tmp_path: Path, started: list[subprocess.Popen[str]]) -> None:
    ours = start(started, tmp_path / "mine" / "config.json")
    start(started, tmp_path / "others")
    start(started, tmp_path / "mine-too")
    itself = start(started, tmp_path / "mine")
    assert leftovers.processes_in(tmp_path / "mine") == tuple(sorted((ours.pid, itself.pid)))
    assert leftovers.processes_in(tmp_path / "nobody") == ()


@pytest.mark.parametrize("code", ["pass", STUBBORN], ids=["willing", "stubborn"])
def test_they_are_ended(
    tmp_path: Path, started: list[subprocess.Popen[str]], code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leftovers, "END_SECONDS", 0.5)
    process = start(started, tmp_path / "mine", code)
    other = start(started, tmp_path / "others")
    assert leftovers.end(tmp_path / "mine") == (process.pid,)
    assert process.wait(60) != 0
    assert other.poll() is None


def test_nothing_there_is_no_error(tmp_path: Path) -> None:
    assert leftovers.end(tmp_path) == ()


@pytest.mark.parametrize("directory", [Path("/"), Path("/tmp"), Path("relative/to/it")])
def test_what_was_not_made_for_one_run_is_refused(directory: Path) -> None:
    with pytest.raises(ValueError, match="not made for one run"):
        leftovers.processes_in(directory)
