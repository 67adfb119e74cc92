"""What to type next, about one installation: with its directory, for the next command knows of none but the default."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def command(words: str, state_dir: Path | str) -> str:
    """A command line in backquotes, for the middle of a sentence."""
    return f"`meshpki {words} --state-dir {shlex.quote(str(state_dir))}`"
