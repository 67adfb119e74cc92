"""One server process: its log, its end."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

TAIL_LINES = 25
PORTS = range(20000, 32000)
"""Below the ports the kernel hands out: a server that is down keeps its own."""
_STEP = 0.05


class NotStartedError(Exception):
    """A server did not come up: the ground is there, so this is a failure, with what the server said last."""


class ServerProcess:
    """A program that runs until it is told to end; started again, it appends to the same log."""

    def __init__(self, argv: Sequence[str], log: Path) -> None:
        self.argv = tuple(argv)
        self.log = log
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; whether it serves is another question."""
        assert not self.running, f"{self.argv[0]} runs already"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.argv, stdout=log, stderr=log, start_new_session=True)

    def wait_until(self, serves: Callable[[], bool], seconds: float) -> None:
        """Return once it serves; raise NotStartedError when it ends instead, or takes longer."""
        deadline = time.monotonic() + seconds
        while not serves():
            if not self.running:
                raise NotStartedError(
                    self._story(f"ended with exit status {self._process and self._process.returncode}")
                )
            if time.monotonic() > deadline:
                self.kill()
                raise NotStartedError(self._story(f"was not ready within {seconds:.0f} s"))
            time.sleep(_STEP)

    def tail(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:])

    def _story(self, what: str) -> str:
        return f"{' '.join(self.argv)}\n{what}; its log ends:\n{self.tail()}"

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._end(signal.SIGKILL, None)

    def stop(self, grace: float) -> None:
        """SIGTERM; SIGKILL for what still runs after so many seconds."""
        self._end(signal.SIGTERM, grace)

    def _end(self, number: signal.Signals, grace: float | None) -> None:
        process = self._process
        if process is None:
            return
        process.send_signal(number)  # does nothing to one that has ended
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(grace)
            return
        process.kill()
        process.wait()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
