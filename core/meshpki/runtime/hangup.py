"""What SIGHUP means to a process that serves: its terminal is gone, or, where it has none, a word to look again."""

from __future__ import annotations

import contextlib
import os
import signal
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Hangup(StrEnum):
    """What to do at SIGHUP; the same for everything that serves."""

    STOP = "stop"
    """Started from a terminal: it has closed, and nobody is there to end the process later. As SIGTERM."""
    LOOK = "look"
    """Without one nothing can have closed: somebody, or `systemctl reload`, wants files looked at. It goes on."""
    NOTHING = "nothing"
    """Whoever started it has SIGHUP ignored, as nohup does."""


def meaning() -> Hangup:
    """Ask at the start, while the terminal is there and before anything handles SIGHUP."""
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        return Hangup.NOTHING
    return Hangup.STOP if _has_terminal() else Hangup.LOOK


@contextlib.contextmanager
def passing_while_loading() -> Iterator[None]:
    """Let a word to look again end nobody who has read nothing yet, until the block handles it by itself.

    A terminal that closes still ends it.
    """
    before = signal.getsignal(signal.SIGHUP)
    if before is not signal.SIG_DFL or meaning() is not Hangup.LOOK:
        yield
        return
    signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, wherever its input and output go."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
        return True
    return False
