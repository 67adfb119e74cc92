"""stdout and stderr as they really are: closed early, full, or in an encoding that lacks a character."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING

from meshpki.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Iterator


class OutputClosed(Exception):  # noqa: N818 - no error: `| head` does it every day
    """Nobody reads our stdout any more."""


def tame() -> None:
    """Let no character of a file name or a foreign certificate make printing fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Flush stdout at the end. Raises OutputClosed when nobody reads any more, MachineError when it cannot write."""
    try:
        yield
        sys.stdout.flush()
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
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
