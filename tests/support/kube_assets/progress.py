"""What the user sees: steps that stay, and one line that moves while a step lasts."""

from __future__ import annotations

import sys
import time
from typing import TextIO

_EVERY_SECONDS = 15.0
"""How often a log, which cannot rewrite a line, gets another one."""


class Progress:
    """Lines on the given stream; on a terminal the last one is rewritten."""

    def __init__(self, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._terminal = stream.isatty()
        self._started = self._shown = time.monotonic()
        self._moving = False

    def step(self, text: str) -> None:
        """Begin something that is worth its own line."""
        self._settle()
        self._stream.write(f"{text}\n")
        self._stream.flush()
        self._started = self._shown = time.monotonic()

    def tick(self, text: str) -> None:
        """Say how far the step is; most calls show nothing."""
        now = time.monotonic()
        if now - self._shown < (0.1 if self._terminal else _EVERY_SECONDS):
            return
        self._shown = now
        minutes, seconds = divmod(int(now - self._started), 60)
        line = f"  {minutes}:{seconds:02} {text}"
        self._stream.write(f"\r\x1b[K{line}" if self._terminal else f"{line}\n")
        self._stream.flush()
        self._moving = self._terminal

    def _settle(self) -> None:
        if self._moving:
            self._stream.write("\r\x1b[K")
            self._moving = False

    def close(self) -> None:
        """Leave no half line behind."""
        self._settle()
        self._stream.flush()
