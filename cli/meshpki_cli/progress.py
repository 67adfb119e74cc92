"""What is happening, on stderr: a line per step; on a terminal the latest word of the step in hand under it."""

from __future__ import annotations

import contextlib
import sys
import threading
from typing import TYPE_CHECKING

import typer

from meshpki_cli.text import clean, columns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.status import Status

STEP = "step "
"""How the engine's lines begin that name a new step; the others tell about the step in hand."""


@contextlib.contextmanager
def reported(doing: str = "") -> Iterator[Callable[[str], None]]:
    """Yield the function to call with each line. It never raises: progress must not stop what it reports."""
    if not sys.stderr.isatty():
        if doing:
            _plain_line(doing)
        yield _plain_line
        return
    from rich.console import Console

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    with console.status(doing) as status:
        yield _Live(status, columns(sys.stderr))


@contextlib.contextmanager
def patient(seconds: float = 1.0) -> Iterator[Callable[[str], None]]:
    """Yield the function to call with each line. Nothing is shown of what is over within a second.

    From then on every line is, and first the step that is in hand, with the latest word about it.
    """
    with contextlib.ExitStack() as opened:
        lock, held = threading.Lock(), list[str]()
        shown: list[Callable[[str], None]] = []

        def show() -> None:
            with lock:
                shown.append(opened.enter_context(reported()))
                for line in held:
                    shown[0](line)

        def tell(line: str) -> None:
            with lock:
                held[0 if line.startswith(STEP) else 1 :] = [line]  # the step, and one word about it at most
                if shown:
                    shown[0](line)

        timer = threading.Timer(seconds, show)
        timer.daemon = True
        timer.start()
        try:
            yield tell
        finally:
            timer.cancel()
            timer.join()


def _plain_line(line: str) -> None:
    with contextlib.suppress(OSError):
        typer.echo(clean(line), err=True)


class _Live:
    def __init__(self, status: Status, width: int) -> None:
        self._status = status
        self._width = width

    def __call__(self, line: str) -> None:
        text = clean(line)
        if text.startswith(STEP):
            self._status.console.print(text)
            self._status.update(" ")  # Rich takes an empty text for none given
        else:
            self._status.update(_shortened(text, self._width - 4))


def _shortened(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"
