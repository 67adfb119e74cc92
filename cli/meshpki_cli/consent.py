"""The operator's word: asked for on a terminal, demanded as `--yes` elsewhere."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from typing import TYPE_CHECKING, Final

import typer

from meshpki.errors import OperatorNeededError

if TYPE_CHECKING:
    from collections.abc import Iterator

_ANSWERS: Final = {"y": True, "yes": True, "n": False, "no": False, "": False}


def obtain(question: str, *, yes: bool, otherwise: str) -> None:
    """Return once the operator agrees. Raises OperatorNeededError for a no, or when there is nobody to ask.

    `otherwise` says what else could be done where nobody can be asked.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise OperatorNeededError(
            "changes are pending, and there is no terminal to ask on",
            wanted="the operator's word",
            todo=f"run it again with --yes, {otherwise}",
        )
    if not _agreed(question):
        raise OperatorNeededError("not agreed to: nothing was changed", todo="run it again when you are ready")


def _agreed(question: str) -> bool:
    """Ask until the answer is yes or no. As `typer.confirm`, whose Ctrl-C is lost if it comes just before the wait.

    Python's `input` looks for a signal, then begins to read: one that comes between the two is heard only after the
    next line.
    """
    while True:
        typer.echo(f"{question} [y/N]: ", nl=False, err=True)
        with _woken_by_signals() as woken:
            select.select([sys.stdin, woken], [], [])
        line = sys.stdin.readline()
        if not line:
            raise typer.Abort
        answer = _ANSWERS.get(line.strip().lower())
        if answer is not None:
            return answer
        typer.echo("y or n, please.", err=True)


@contextlib.contextmanager
def _woken_by_signals() -> Iterator[int]:
    """A descriptor that becomes readable with every signal, also with one that Python has not looked at yet."""
    woken, waker = os.pipe()
    os.set_blocking(waker, False)
    before = signal.set_wakeup_fd(waker)
    try:
        yield woken
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(waker)
