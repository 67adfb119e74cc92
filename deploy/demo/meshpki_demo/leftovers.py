"""The last net under the clean-up: which processes still work in our directory, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

PROC: Final = Path("/proc")
END_SECONDS: Final = 5.0
POLL_SECONDS: Final = 0.05
LEAST_PARTS: Final = 3
"""Of a path made for one run: the root, a directory for temporary files, a random name."""


def processes_in(directory: Path) -> tuple[int, ...]:
    """Give the ids of all other processes of ours with an argument that is `directory` or a path below it.

    The directory's name is random and was made for one run: a process that names it belongs to that run. Raises
    ValueError for a directory that cannot be such a one: processes will be ended for what this finds.
    """
    if not directory.is_absolute() or len(directory.parts) < LEAST_PARTS:
        raise ValueError(f"{directory} was not made for one run")
    own, below = os.fsencode(directory), os.fsencode(directory) + b"/"
    return tuple(
        sorted(pid for pid in _own_processes() if any(a == own or a.startswith(below) for a in _arguments(pid)))
    )


def end(directory: Path) -> tuple[int, ...]:
    """End every one of them: SIGTERM, then SIGKILL. Give the ids of those that there were."""
    found = processes_in(directory)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes_in(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + END_SECONDS
        while processes_in(directory) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
    return found


def _own_processes() -> list[int]:
    return [
        int(entry.name)
        for entry in PROC.iterdir()
        if entry.name.isdigit() and int(entry.name) != os.getpid() and _owner(entry) == os.geteuid()
    ]


def _owner(entry: Path) -> int | None:
    try:
        return entry.stat().st_uid
    except OSError:
        return None


def _arguments(pid: int) -> list[bytes]:
    try:
        return (PROC / str(pid) / "cmdline").read_bytes().split(b"\0")  # empty for a zombie: nothing of it runs
    except OSError:
        return []
