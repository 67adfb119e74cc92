"""Helpers in processes of their own, spoken to line by line: a request in JSON, an answer in JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from benchmarks import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

SERVER_CORE, LOAD_CORE = 0, 1
Message = dict[str, Any]  # Any: numbers and texts, as each helper says


class Helper:
    """A child process that runs `python -m <module>` and answers `ask`."""

    def __init__(self, module: str, **arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        self.ready = self.ask("start", **arguments)

    def ask(self, command: str, **arguments: object) -> Message:
        """Have a command done, and wait for its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"a helper of the benchmark ended: {self._process.args!r}, status {self._process.wait()}")
        answer: Message = json.loads(line)
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(30)
        if self._process.stdout is not None:
            self._process.stdout.close()


def answer_requests(commands: Mapping[str, Callable[..., Message]]) -> None:
    """In the child: do what the parent asks, until it closes the pipe."""
    for line in sys.stdin:
        request = json.loads(line)
        answer = commands[request.pop("command")](**request)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def pin(core: int) -> None:
    """Stay on one core, where there are two or more: what is measured must not share it with the load."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, {cores[core]})


def usage() -> Message:
    """CPU seconds of this process so far, and its resident memory in KiB."""
    resident = next(
        line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")
    )
    return {"cpu": time.process_time(), "system": os.times().system, "rss_kib": int(resident)}
