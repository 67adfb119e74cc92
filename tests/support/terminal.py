"""A program that is started from a terminal of its own, which can close; and one that has none."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Self

from support import command_line

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType

F_SETPIPE_SZ = 1031
PAGE = 4096
_ON_TERMINAL = """
import os, signal, sys
os.login_tty(int(sys.argv[1]))
if sys.argv[2]:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Started:
    """A program in a session of its own, on a terminal or without one; killed at the end if it has not ended."""

    def __init__(self, argv: Sequence[str], *, terminal: bool, ignoring: bool = False, cwd: Path | None = None) -> None:
        """Without a terminal its output goes into a pipe. `ignoring`: it finds SIGHUP ignored, as behind nohup."""
        command, theirs = list(argv), -1
        if terminal:
            self._ours, theirs = os.openpty()
            command = [sys.executable, "-P", "-c", _ON_TERMINAL, str(theirs), "1" if ignoring else "", *argv]
        else:
            self._ours, theirs = os.pipe()
        try:
            self.process = subprocess.Popen(
                command,
                cwd=cwd,
                env=command_line.environment(),
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                stderr=theirs,
                pass_fds=[theirs],
                start_new_session=not terminal,
            )
        finally:
            os.close(theirs)
        self.said = ""

    def wait_for(self, words: str, seconds: float = 60) -> None:
        """Read what it says until the words stand there."""
        deadline = time.monotonic() + seconds
        while words not in self.said:
            ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"not within {seconds} s: {words!r} in {self.said}"
            read = os.read(self._ours, 65536)
            assert read, f"it has ended: {self.said}"
            self.said += read.decode(errors="replace")

    def small(self) -> None:
        """Let the pipe take no more than a page."""
        fcntl.fcntl(self._ours, F_SETPIPE_SZ, PAGE)

    def close(self) -> None:
        """Close the terminal: the kernel sends SIGHUP, and nothing can be written there any more."""
        os.close(self._ours)
        self._ours = -1

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal; the exit status."""
        self.process.send_signal(number)
        return self.process.wait(60)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait(60)
        if self._ours >= 0:
            os.close(self._ours)
