"""Signals the process that a pid file names, after a look at who it is: a stale number must not hit a stranger."""

from __future__ import annotations

import os
import re
import signal
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import machine_errors

if TYPE_CHECKING:
    from meshpki.agent.files.notice import SignalNotice

MAX_PID_FILE: Final = 64
_NUMBER: Final = re.compile(rb"\s*([1-9][0-9]{0,6})\s*")
_INIT: Final = 1


def send(notice: SignalNotice) -> bool:
    """Send the signal; False when there is no such file or process, and so nobody who would have to know.

    Raises MachineError unless all of this holds: the file is a regular one that only its owner can write; its owner
    is root or the process's own user, so that nobody can aim our signal at somebody else's process; and the process
    has a handler for the signal, for without one it would be ended by it (a process that has only just begun, or a
    stranger that got a stale number).
    """
    found = _read(notice.pid_file)
    if found is None:
        return False
    pid, owner = found
    if pid in {_INIT, os.getpid()}:
        raise MachineError(f"{notice.pid_file} names process {pid}", wanted="the process that reads the files")
    try:
        with machine_errors("could not look at the process in", notice.pid_file):
            handle = os.pidfd_open(pid)
    except MachineError as error:
        if isinstance(error.__cause__, ProcessLookupError):
            return False
        raise
    # From here on the number cannot pass to another process unnoticed: the signal goes to the handle.
    try:
        return _send(notice, pid, owner, handle)
    finally:
        os.close(handle)


def _send(notice: SignalNotice, pid: int, owner: int, handle: int) -> bool:
    try:
        user, caught = _process(pid)
        if owner not in {0, user}:
            raise MachineError(
                f"{notice.pid_file} belongs to user {owner}, and process {pid} to user {user}",
                wanted="a pid file of root, or of the process's own user",
            )
        if not caught >> (notice.number - 1) & 1:
            raise MachineError(
                f"process {pid} in {notice.pid_file} has no handler for {notice.number.name}, which would end it",
                wanted="a program that reads its files anew on that signal",
                todo="is the pid file stale? else use a command",
            )
        signal.pidfd_send_signal(handle, notice.number)
    except ProcessLookupError:
        return False
    except OSError as error:
        raise MachineError(
            f"could not signal process {pid} in {notice.pid_file}: {error.strerror}",
            todo="run the agent as the same user, or use a command",
        ) from error
    return True


def _read(path: Path) -> tuple[int, int] | None:
    """Give the number in the file and the file's owner."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise MachineError(f"could not read {path}: {error.strerror}", wanted="a pid file") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise MachineError(
                f"{path} is no regular file, or others than its owner can write it",
                wanted="a regular file with mode 0644 or stricter",
            )
        content = os.read(descriptor, MAX_PID_FILE + 1)
    finally:
        os.close(descriptor)
    number = _NUMBER.fullmatch(content) if len(content) <= MAX_PID_FILE else None
    if number is None:
        raise MachineError(f"{path} does not hold a process number", wanted="one number")
    return int(number[1]), status.st_uid


def _process(pid: int) -> tuple[int, int]:
    """Give the real user of a process and the mask of the signals that it handles. Raises ProcessLookupError."""
    try:
        text = (Path("/proc") / str(pid) / "status").read_text()
    except FileNotFoundError as error:
        raise ProcessLookupError(pid) from error
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return int(fields["Uid"].split()[0]), int(fields["SigCgt"].strip(), 16)
