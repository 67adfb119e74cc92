"""Plain text that fits: control characters made visible, wrapping to a width, a label with a hanging indent."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

UNLIMITED: Final = 100_000
"""Columns of something that is no terminal: its reader is a program, which wants whole lines."""
USUAL: Final = 80
"""Of a terminal that does not say."""
NARROWEST: Final = 30
"""Below this, wrapped text is worse than a line that the terminal breaks."""


def clean(text: str) -> str:
    """Make every control character visible: what a token or a file says must not steer the terminal."""
    return "".join(char if char.isprintable() else _visible(char) for char in text)


def _visible(char: str) -> str:
    return " " if char in "\n\t" else char.encode("unicode_escape").decode()


def columns(stream: TextIO) -> int:
    """Columns to fill on `stream`: those of its terminal, or as many as a line has.

    Of its own terminal: `shutil.get_terminal_size` asks that of stdout, which may be a pipe while stderr is none.
    """
    if not stream.isatty():
        return UNLIMITED
    told = os.environ.get("COLUMNS", "")
    try:
        width = int(told) if told.isdecimal() else os.get_terminal_size(stream.fileno()).columns
    except (OSError, ValueError):
        width = 0
    return max(width or USUAL, NARROWEST)


def wrap(text: str, width: int) -> list[str]:
    """Break `text` between words at `width` columns; paths and digests stay whole. At least one line."""
    return textwrap.wrap(text, max(width, NARROWEST // 2), break_long_words=False, break_on_hyphens=False) or [""]


def labelled(label: str, text: str, width: int) -> list[str]:
    """`label: text` with the following lines indented under it."""
    first, *others = wrap(f"{label}: {text}", width)
    if not others:
        return [first]
    rest = " ".join(others)
    return [first, *(f"    {line}" for line in wrap(rest, width - 4))]
