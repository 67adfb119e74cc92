"""Whom to tell that the files have changed: a command to run, or a process to signal. Configuration only."""

from __future__ import annotations

import shlex
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from meshpki.errors import UsageError

COMMAND_SECONDS: Final = 30.0
MAX_ARGUMENTS: Final = 64
SIGNALS: Final = {"HUP": signal.SIGHUP, "USR1": signal.SIGUSR1, "USR2": signal.SIGUSR2}
"""Those by which programs are asked to read their files anew. None that is made to end a program."""


@dataclass(frozen=True, slots=True)
class CommandNotice:
    """Run a program without a shell. Raises UsageError when it has no absolute path."""

    arguments: tuple[str, ...]
    """The program's absolute path, then what it is given."""
    seconds: float = COMMAND_SECONDS
    """How long it may take; then it is killed with all that it started."""

    def __post_init__(self) -> None:
        """Refuse what would be looked up on a path, or could not be started."""
        if not self.arguments or not self.arguments[0].startswith("/"):
            raise UsageError(
                f"command {' '.join(self.arguments)[:120]!r}",
                wanted="the absolute path of a program, then its arguments",
            )
        if len(self.arguments) > MAX_ARGUMENTS or any("\0" in argument for argument in self.arguments):
            raise UsageError("a command with too many arguments or a NUL", wanted=f"at most {MAX_ARGUMENTS} arguments")
        if self.seconds <= 0:
            raise UsageError(f"{self.seconds} s for a command", wanted="more than 0 s")


@dataclass(frozen=True, slots=True)
class SignalNotice:
    """Send a signal to the process whose number stands in a file. Raises UsageError when the path is relative."""

    number: signal.Signals
    pid_file: Path

    def __post_init__(self) -> None:
        """Refuse a path that depends on where the agent was started, and a signal that ends programs."""
        if not self.pid_file.is_absolute():
            raise UsageError(f"pid file {str(self.pid_file)[:120]!r}", wanted="an absolute path")
        if self.number not in SIGNALS.values():
            raise UsageError(f"signal {self.number.name}", wanted=f"one of {', '.join(SIGNALS)}")


def parse_command(text: str) -> CommandNotice:
    """Split a command line by the quoting rules of a shell; nothing in it is expanded. Raises UsageError."""
    try:
        return CommandNotice(tuple(shlex.split(text)))
    except ValueError as error:
        raise UsageError(f"command {text[:120]!r}: {error}", wanted="quotes that are closed") from error


def parse_signal(text: str) -> SignalNotice:
    """Read `HUP:/run/program.pid`. Raises UsageError."""
    name, _, path = text.partition(":")
    if name not in SIGNALS:
        raise UsageError(f"signal {text[:120]!r}", wanted="HUP, USR1 or USR2, a colon, and the path of a pid file")
    return SignalNotice(SIGNALS[name], Path(path))
