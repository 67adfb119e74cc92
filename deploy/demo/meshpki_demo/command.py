"""Runs `meshpki` as a user does: another process, arguments, an exit status."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_SECONDS: Final = 120
STOP_SECONDS: Final = 10
ERROR_LINES: Final = 12
COLUMNS: Final = "73"
"""What of 80 is left beside the narrator's margin."""


@dataclass(frozen=True, slots=True)
class Done:
    """What a command wrote and how it ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Meshpki:
    """The command of this very environment, run in `directory` so that paths in its arguments stay short."""

    directory: Path

    def shown(self, *arguments: str) -> str:
        """Write the command as a user would type it."""
        return shlex.join(["meshpki", *arguments])

    def run(self, *arguments: str) -> Done:
        """Run it to its end. When we are interrupted meanwhile, it is asked to end first."""
        with subprocess.Popen(
            [sys.executable, "-P", "-m", "meshpki_cli", *arguments],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
            start_new_session=True,  # Ctrl-C reaches us alone
        ) as process:
            try:
                out, err = process.communicate(timeout=TIMEOUT_SECONDS)
            except BaseException:
                process.terminate()
                try:
                    process.communicate(timeout=STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    process.kill()
                raise
        return Done(process.returncode, out, err)

    def check(self, *arguments: str) -> str:
        """Run it, give its standard output. Raises MeshpkiError unless it ends with status 0."""
        done = self.run(*arguments)
        if done.status:
            raise MeshpkiError(
                f"`{self.shown(*arguments)}` ended with status {done.status}",
                wanted="status 0",
                evidence=tuple((done.err or done.out).strip().splitlines()[-ERROR_LINES:]),
            )
        return done.out


def _environment() -> dict[str, str]:
    """Ours, without what configures meshpki: the story is told the same way everywhere."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MESHPKI_")}
    return {**kept, "COLUMNS": COLUMNS, "NO_COLOR": "1"}
