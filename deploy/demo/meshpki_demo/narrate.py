"""Tells the story: numbered steps at 80 columns, colour on a terminal only."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from typing import Final, TextIO

WIDTH: Final = 80
INDENT: Final = "     "
BOLD, DIM, GREEN, RED, CYAN = "1", "2", "32", "31", "36"


class Narrator:
    """Writes lines. Nothing that it is given may hold a token or a key: it shows what it is told."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty() and "NO_COLOR" not in os.environ
        self._begun = time.monotonic()

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _write(self, line: str = "") -> None:
        print(line, file=self._stream, flush=True)

    def title(self, text: str) -> None:
        """Open the story."""
        self._write(self._paint(text, BOLD))

    def step(self, number: int, text: str) -> None:
        """Open a numbered step."""
        self._write()
        self._write(self._paint(f"{number:>2}.  {text}", BOLD))

    def command(self, text: str) -> None:
        """Show a command as the user would type it."""
        lines = textwrap.wrap(text, WIDTH - len(INDENT) - 4, break_on_hyphens=False, break_long_words=False)
        for line in (" \\\n" + INDENT + "    ").join(lines).splitlines():
            self._write(self._paint(line, CYAN) if line.startswith(" ") else INDENT + self._paint(f"$ {line}", CYAN))

    def say(self, text: str) -> None:
        """Tell something in prose, wrapped."""
        for line in textwrap.wrap(text, WIDTH - len(INDENT), break_on_hyphens=False, break_long_words=False):
            self._write(INDENT + line)

    def detail(self, text: str) -> None:
        """Add to what was just said to be good or bad."""
        for line in textwrap.wrap(text, WIDTH - len(INDENT) - 3, break_on_hyphens=False, break_long_words=False):
            self._write(INDENT + "   " + self._paint(line, DIM))

    def fact(self, name: str, value: str) -> None:
        """Show one named value."""
        self._write(f"{INDENT}{self._paint(f'{name:<19}', DIM)} {value}")

    def output(self, text: str) -> None:
        """Show lines of a program's output; what is too long goes on below, further in."""
        for line in text.splitlines():
            inner = " " * (len(line) - len(line.lstrip()) + 2)
            parts = textwrap.wrap(
                line, WIDTH - len(INDENT) - 2, subsequent_indent=inner, break_on_hyphens=False, drop_whitespace=True
            )
            for part in parts or [""]:
                self._write(self._paint(f"{INDENT}| {part}".rstrip(), DIM))

    def good(self, text: str) -> None:
        """Say that something was as it should be."""
        self._mark("ok", GREEN, text)

    def bad(self, text: str) -> None:
        """Say that something was not as told."""
        self._mark("NO", RED, text)

    def _mark(self, mark: str, code: str, text: str) -> None:
        lines = textwrap.wrap(text, WIDTH - len(INDENT) - 3, break_on_hyphens=False, break_long_words=False)
        for position, line in enumerate(lines or [""]):
            lead = self._paint(mark, code) + " " if position == 0 else "   "
            self._write(INDENT + lead + line)

    def end(self, text: str) -> None:
        """Close the story with its duration."""
        self._write()
        self._write(self._paint(f"{text} ({time.monotonic() - self._begun:.0f} s)", BOLD))
