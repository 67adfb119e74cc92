"""stdout and stderr as they really are: closed early, full, or in an encoding that lacks a character."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from meshpki.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO


class OutputClosed(Exception):  # noqa: N818 - no error: `| head` does it every day
    """Nobody reads our stdout any more."""


class _Results:
    stream: TextIO | None = None


def tame() -> None:
    """Let no character of a file name or a foreign certificate make printing fail, and no stream that is closed."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _fill(number, name)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _fill(number: int, name: str) -> None:
    """Put nowhere in the place of a stream that we were started without: the next file opened would be taken for it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    try:
        os.fstat(number)
    except OSError:
        os.dup2(nowhere, number)
    if nowhere != number:
        os.close(nowhere)
    os.set_inheritable(number, True)
    setattr(sys, name, open(number, "w" if number else "r", encoding="utf-8", closefd=False))  # noqa: SIM115


def results() -> TextIO:
    """Where the result of a command goes."""
    return _Results.stream or sys.stdout


@contextlib.contextmanager
def for_results_alone() -> Iterator[None]:
    """Keep stdout for `results`: what a plugin or a library prints meanwhile goes to stderr."""
    before, _Results.stream = _Results.stream, results()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        _Results.stream = before


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Flush stdout at the end. Raises OutputClosed when nobody reads any more, MachineError when it cannot write."""
    try:
        yield
        results().flush()
    except BrokenPipeError as error:
        raise OutputClosed from error
    except OSError as error:
        silence()
        raise MachineError(
            f"could not write the output: {error.strerror or error}", todo="look where stdout goes, and run it again"
        ) from error


def silence() -> None:
    """Point stdout elsewhere, or the interpreter complains about what it still holds when it leaves."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, results().fileno())
        os.close(nowhere)
