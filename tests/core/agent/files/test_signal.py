"""Signals by pid file, sent to real processes: to the one that listens, and never to a stranger."""

from __future__ import annotations

import os
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.files import signal as file_signal
from meshpki.agent.files.notice import SignalNotice
from meshpki.errors import MachineError
from support.agent_process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

_LISTENS = "trap 'echo again' HUP; echo ready; while :; do sleep 0.05; done"
_DEAF = "echo ready; while :; do sleep 0.05; done"
ROOT = os.geteuid() == 0
NOBODY = 65534


@contextmanager
def program(code: str, *, user: int | None = None) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(["/bin/sh", "-c", code], stdout=subprocess.PIPE, text=True, user=user, cwd="/") as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def pid_file(tmp_path: Path) -> Path:
    return tmp_path / "program.pid"


def send(pid_file: Path, number: signal.Signals = signal.SIGHUP) -> bool:
    return file_signal.send(SignalNotice(number, pid_file))


@pytest.mark.parametrize("form", ["{}", "{}\n", " {} \n"])
def test_the_program_that_listens_is_told(pid_file: Path, form: str) -> None:
    with program(_LISTENS) as process:
        pid_file.write_text(form.format(process.pid))
        assert send(pid_file)
        assert process.stdout is not None
        assert process.stdout.readline() == "again\n"


def test_a_program_without_a_handler_is_left_alone(pid_file: Path) -> None:
    """What a stale number may lead to: another program, which the signal would end."""
    with program(_DEAF) as process:
        pid_file.write_text(str(process.pid))
        with pytest.raises(MachineError, match="no handler for SIGHUP"):
            send(pid_file)
        assert process.poll() is None


def test_a_handler_for_another_signal_does_not_count(pid_file: Path) -> None:
    with program(_LISTENS) as process:
        pid_file.write_text(str(process.pid))
        with pytest.raises(MachineError, match="no handler for SIGUSR1"):
            send(pid_file, signal.SIGUSR1)
        assert process.poll() is None


def test_nobody_there_is_nobody_to_tell(pid_file: Path) -> None:
    assert not send(pid_file), "no file: the program is not running"
    with program(_LISTENS) as process:
        pid_file.write_text(str(process.pid))
    process.wait()
    assert not send(pid_file), "a file that was left behind"


def test_a_dead_program_that_nobody_has_buried_is_no_reason_to_fail(pid_file: Path) -> None:
    with program(_LISTENS) as process:
        pid_file.write_text(str(process.pid))
        process.kill()
        wait_until(lambda: "State:\tZ" in Path(f"/proc/{process.pid}/status").read_text(), "a zombie")
        try:
            send(pid_file)
        except MachineError as error:
            assert "no handler" in error.seen


@pytest.mark.parametrize(
    "content",
    ["", "\n", "0", "-1", "-5", "1 2", "abc", "0x10", "1.0", "٣", "99999999", "9" * 60, "5" + " " * 100, "00012"],
)
def test_what_is_no_process_number_is_refused(pid_file: Path, content: str) -> None:
    pid_file.write_text(content)
    with pytest.raises(MachineError, match="process number"):
        send(pid_file)


def test_neither_init_nor_the_agent_itself_is_signalled(pid_file: Path) -> None:
    handler = signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        for pid in (1, os.getpid()):
            pid_file.write_text(str(pid))
            with pytest.raises(MachineError, match=f"names process {pid}"):
                send(pid_file)
    finally:
        signal.signal(signal.SIGHUP, handler)


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_refused(pid_file: Path, mode: int) -> None:
    with program(_LISTENS) as process:
        pid_file.write_text(str(process.pid))
        pid_file.chmod(mode)
        with pytest.raises(MachineError, match="others than its owner"):
            send(pid_file)


def test_a_link_a_directory_and_a_pipe_are_refused(pid_file: Path, tmp_path: Path) -> None:
    with program(_LISTENS) as process:
        (tmp_path / "real").write_text(str(process.pid))
        pid_file.symlink_to(tmp_path / "real")
        with pytest.raises(MachineError):
            send(pid_file)
    pid_file.unlink()
    pid_file.mkdir()
    with pytest.raises(MachineError):
        send(pid_file)
    pid_file.rmdir()
    os.mkfifo(pid_file, 0o600)
    with pytest.raises(MachineError):
        send(pid_file)


@pytest.mark.skipif(not ROOT, reason="needs to start a program as somebody else")
def test_a_users_pid_file_cannot_aim_at_somebody_elses_process(pid_file: Path) -> None:
    with program(_LISTENS) as process:
        pid_file.write_text(str(process.pid))
        os.chown(pid_file, NOBODY, NOBODY)
        with pytest.raises(MachineError, match=f"belongs to user {NOBODY}"):
            send(pid_file)


@pytest.mark.skipif(not ROOT, reason="needs to start a program as somebody else")
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_roots_pid_file_and_the_users_own_reach_the_users_process(pid_file: Path, owner: int) -> None:
    with program(_LISTENS, user=NOBODY) as process:
        pid_file.write_text(str(process.pid))
        os.chown(pid_file, owner, owner)
        assert send(pid_file)
        assert process.stdout is not None
        assert process.stdout.readline() == "again\n"


def test_no_descriptor_is_left_open(pid_file: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with program(_LISTENS) as listens, program(_DEAF) as deaf:
        before = descriptors()
        for _ in range(5):
            pid_file.write_text(str(listens.pid))
            assert send(pid_file)
            pid_file.write_text(str(deaf.pid))
            with pytest.raises(MachineError):
                send(pid_file)
        assert descriptors() == before
