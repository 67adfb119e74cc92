"""Ctrl-C and SIGTERM while the program is still loading: it ends at once, by that signal, and says nothing.

Python's own answer to Ctrl-C, an exception out of whatever is being loaded, would be a traceback; and as the first
process of a container a program without a handler does not hear SIGTERM at all.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_USUAL: Final[dict[signal.Signals, Callable[[int, FrameType | None], object] | signal.Handlers]] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGTERM: signal.SIG_DFL,
}


def leave_at_once() -> None:
    """From now on. What is ignored, as in a shell's background job, or handled already, stays so."""
    for number, usual in _USUAL.items():
        if signal.getsignal(number) == usual:
            signal.signal(number, _leave)


def usual() -> None:
    """Let both do again what they do in any Python program: something has begun that may want to be told."""
    for number, handler in _USUAL.items():
        if signal.getsignal(number) is _leave:
            signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    os._exit(128 + number)  # the first process of a container is not ended by its own signal
