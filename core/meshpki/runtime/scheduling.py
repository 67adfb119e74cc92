"""How the kernel gives the threads of a server their turns."""

from __future__ import annotations

import contextlib
import os


def without_preemption() -> None:
    """Let no thread that is woken take the processor from the one that woke it; for threads made from now on, too.

    In a server whose threads work for each other one is woken with every call: with the kernel's usual policy that one
    runs at once, finds the interpreter's lock taken, and goes to sleep again. SCHED_BATCH (sched(7)) leaves out just
    this; shares of the processor stay as they are. It saves a busy CA some 10 % of its processor time (ADR 0015, 0023);
    where other processes want the same core, an answer may take a few milliseconds longer. Nobody needs a right for it;
    where it is refused all the same, nothing is lost but the gain.
    """
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
