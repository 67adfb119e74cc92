"""How many files and connections this process may hold open, and what to say when it may open no more."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from typing import Final

from meshpki.errors import MachineError

TODO: Final = (
    "raise the limit on open files (`ulimit -n`, LimitNOFILE= of a systemd unit), or see who holds connections to this"
    " process"
)


class OpenFilesError(MachineError):
    """This process may open no more files and connections. That is this machine's doing, whoever was to be asked."""

    def __init__(self, doing: str) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        super().__init__(
            f"{doing}: {os.strerror(errno.EMFILE)}; this process may have {soft} (RLIMIT_NOFILE)", todo=TODO
        )


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


def require(count: int, doing: str) -> None:
    """Raise OpenFilesError unless so many more can be opened now. For what fails badly, or dies, halfway."""
    with contextlib.ExitStack() as taken:
        try:
            taken.callback(os.close, first := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            for _ in range(count - 1):
                taken.callback(os.close, os.dup(first))
        except OSError as error:
            if error.errno != errno.EMFILE:
                return  # ENFILE, or no /dev/null: nothing that this process's own limit is to blame for
            raise OpenFilesError(doing) from error
