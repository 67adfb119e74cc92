"""An agent as a user starts it, a CA of a few lines for it, and what the kernel says that its process costs."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from benchmarks import ROOT

# The tests' own support: `benchmarks` puts it on the path.
from support.agent_process import fake_token
from support.fake_ca import SERVER_NAME, FakeCa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

LIFE_SECONDS = 86_400
"""Nothing is renewed while something is measured."""
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process has cost so far, all of its threads."""

    at: float
    cpu_seconds: float
    wakes: int
    """Times that its main thread, which runs the event loop, slept and was woken."""
    pss_kib: int
    """Its share of the memory: pages of its own, and its part of those it shares."""


class Agent:
    """`meshpki agent run`, in pod mode or with --node, from start to end of a block."""

    def __init__(self, directory: Path, ca: FakeCa, *options: str, node: bool = False) -> None:
        self.socket = directory / "s" / "sds.sock"
        roots, token = directory / "roots.pem", directory / "token"
        roots.write_bytes(ca.authority.roots_pem)
        token.write_text(fake_token(expires_at=time.time() + LIFE_SECONDS))
        mode = ("--node",) if node else ("--token-file", str(token))
        self._arguments = [
            *(sys.executable, "-m", "meshpki_cli", "agent", "run", *mode, *options),
            *("--ca-address", ca.address, "--ca-server-name", SERVER_NAME, "--ca-roots", str(roots)),
            *("--sds-socket", str(self.socket), "--log-level", "warning"),
        ]
        self._log = directory / "log"
        self.process: subprocess.Popen[bytes]

    def start(self) -> Self:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self._arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT)
        return self

    def wait_ready(self) -> None:
        """Wait until somebody answers on the socket, asking without a pause of more than half a millisecond."""
        while self.process.poll() is None:
            with contextlib.closing(socket.socket(socket.AF_UNIX)) as client, contextlib.suppress(OSError):
                client.connect(str(self.socket))
                return
            time.sleep(0.0005)
        raise SystemExit(f"the agent ended: {self._log.read_text()}")

    def __enter__(self) -> Self:
        self.start().wait_ready()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.process.terminate()
        self.process.wait(30)


def cost_of(pid: int) -> Cost:
    """Ask the kernel what a process has cost."""
    at = Path("/proc") / str(pid)
    fields = (at / "stat").read_text().rpartition(")")[2].split()
    return Cost(
        at=time.monotonic(),
        cpu_seconds=(int(fields[11]) + int(fields[12])) / _TICKS,
        wakes=_number(at / "status", "voluntary_ctxt_switches"),
        pss_kib=_number(at / "smaps_rollup", "Pss"),
    )


def _number(path: Path, name: str) -> int:
    for line in path.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"{path} tells no {name}")


@contextlib.contextmanager
def stage() -> Iterator[tuple[Path, FakeCa]]:
    """A short directory for agents, and a CA that signs at once."""
    with tempfile.TemporaryDirectory(prefix="mpb-", dir="/tmp") as directory, FakeCa(life=LIFE_SECONDS) as ca:
        yield Path(directory), ca


def place(root: Path, name: str) -> Path:
    """A directory for one agent."""
    directory = root / name
    directory.mkdir()
    return directory
