"""What SIGHUP means to a process that serves: its terminal is gone, or, where it has none, a word to look again."""

from __future__ import annotations

import contextlib
import os
import signal
from enum import StrEnum


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


def let_pass_while_loading() -> None:
    """Let a word to look again end nobody who has read nothing yet. A terminal that closes still does."""
    if meaning() is Hangup.LOOK:
        signal.signal(signal.SIGHUP, lambda *_: None)


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal, wherever its input and output go."""
    with contextlib.suppress(OSError):
        os.close(os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC))
        return True
    return False
