"""Nothing outlives the tests: one directory for all servers of this process, and a process that clears it away.

The guard reads a pipe that only its parent holds. When the parent ends, however it ends, the pipe does too: the guard
kills whatever has the directory's name in its command line, and removes the directory.
"""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PREFIX = "mk-"
BOUND = 10.0


@functools.cache
def directory() -> Path:
    """The directory of this process's servers; the first call makes it and sets the guard on it."""
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    # A session of its own: the Ctrl-C that ends the tests must not end their guard first.
    guard = subprocess.Popen(
        [sys.executable, "-I", __file__, made],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    atexit.register(guard.communicate)  # which closes the pipe, and keeps it open until then
    return made


def owned(where: Path) -> list[int]:
    """The processes that have this directory in their command line, but for this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes()
        except OSError:
            continue  # it has ended
        if os.fsencode(f"{where}/") in line:
            found.append(int(entry.name))
    return found


def clear(where: Path) -> None:
    """Kill the servers of the directory, then remove it."""
    deadline = time.monotonic() + BOUND
    while (pids := owned(where)) and time.monotonic() < deadline:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
    shutil.rmtree(where, ignore_errors=True)


if __name__ == "__main__":
    sys.stdin.buffer.read()
    clear(Path(sys.argv[1]))
