"""How many files and connections this process may hold open."""

from __future__ import annotations

import contextlib
import resource


def allow_all() -> int:
    """Raise the soft limit of open files to the hard one, and return what holds now.

    The usual soft limit, 1024, is for programs that still use select(2); a server that takes a connection of every
    workload runs into it, and then can neither accept nor dial nor open a file. Whoever wants less sets the hard limit.
    Child processes inherit it, which harms none that opens fewer than 1024 files itself.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):  # refused in some sandboxes: what was allowed stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    return soft
