"""One supervisor per installation: a lock that lives exactly as long as its holder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import PRIVATE_FILE, machine_errors
from meshpki_local.processes import ProcessRef, is_alive, start_ticks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_PATIENCE: Final = 2.0
"""Seconds: longer than anybody who only looks holds the lock, and than a holder takes to write its name."""


@contextlib.contextmanager
def only_supervisor(lock: Path) -> Iterator[None]:
    """Hold the lock (flock(2)) for the body. Raises MachineError that names the process that has it."""
    with machine_errors("could not open", lock):
        descriptor = os.open(lock, _FLAGS, PRIVATE_FILE)
    try:
        _take(descriptor, lock)
        # The directory may have been removed and made anew between open and lock.
        if not lock.exists() or os.fstat(descriptor).st_ino != lock.stat().st_ino:
            raise MachineError(f"{lock} was removed while it was taken", todo="start again")
        _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, lock: Path) -> None:
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            pid = _signature(descriptor).pid
            raise MachineError(
                f"a supervisor with pid {pid} runs this installation already ({lock} is locked)",
                wanted="one at a time",
                todo=f"end it with `kill {pid}`, or leave it to its work",
            ) from error
        return


def _sign(descriptor: int) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()} {start_ticks(os.getpid())}\n".encode(), 0)


def _signature(descriptor: int) -> ProcessRef:
    try:
        pid, ticks = os.pread(descriptor, 64, 0).split()
        return ProcessRef(int(pid), int(ticks))
    except ValueError:
        return ProcessRef(0, -1)


def nudge(lock: Path) -> None:
    """Have the supervisor look at its files within a second, whether they have changed or not.

    Not by SIGHUP, which ends one that was started from a terminal.
    """
    with contextlib.suppress(OSError):
        os.utime(lock, follow_symlinks=False)


def holder(lock: Path) -> ProcessRef | None:
    """The supervisor that runs this installation, or None. Changes nothing."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        deadline = time.monotonic() + _PATIENCE
        while _is_locked(descriptor):
            if is_alive(ref := _signature(descriptor)):
                return ref
            if time.monotonic() > deadline:  # Locked, and not signed yet: by a holder that was stopped just now.
                return None
            time.sleep(0.02)
        return None
    finally:
        os.close(descriptor)


def _is_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    return False
