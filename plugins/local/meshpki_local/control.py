"""The supervisor seen from outside: start it in the background, tell it to look, stop it and all it started."""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import private_directory
from meshpki.runtime.logs import redact
from meshpki_local import processes, run_file
from meshpki_local.children import STOP_SECONDS
from meshpki_local.single import holder, nudge

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki_local.layout import Layout
    from meshpki_local.processes import ProcessRef
    from meshpki_local.run_file import RunRecord

SUPERVISOR: Final = "supervisor"
_START_SECONDS: Final = 30.0
_TAIL: Final = 16 << 10


def running(layout: Layout) -> ProcessRef | None:
    """The supervisor, if one runs."""
    return holder(layout.lock)


def record(layout: Layout) -> RunRecord | None:
    """The running supervisor's word; None when none runs, or when it has not spoken yet. Raises MachineError."""
    ref = running(layout)
    said = run_file.read(layout.run_file)
    return said if ref is not None and said is not None and said.pid == ref.pid else None


def start(layout: Layout) -> None:
    """Start the supervisor and return as soon as it runs. Raises MachineError with what its log says."""
    for directory in (layout.run, layout.logs):
        private_directory(directory)
    argv = (sys.executable, "-P", "-m", "meshpki_local", str(layout.state))
    reader, writer = os.pipe()
    try:
        try:
            environment = processes.clean_environment(os.environ)
            first = processes.spawn(argv, environment, layout.log(SUPERVISOR), notify=writer)
        finally:
            os.close(writer)
        os.waitpid(first.pid, 0)
        readable, _, _ = select.select([reader], [], [], _START_SECONDS)
        if readable and os.read(reader, 1):
            return
    finally:
        os.close(reader)
    raise MachineError(
        "the supervisor did not start" + ("" if readable else f" within {_START_SECONDS:.0f} s"),
        todo=f"see its log, {layout.log(SUPERVISOR)}",
        evidence=tail(layout.log(SUPERVISOR), 3),
    )


def reload(layout: Layout) -> bool:
    """Make a running supervisor look at its files within a second; False when none runs."""
    runs = running(layout) is not None
    if runs:
        nudge(layout.lock)
    return runs


def stop(layout: Layout) -> bool:
    """Stop the supervisor, then whatever of its children is left; True if there was anything. Raises MachineError."""
    ref = running(layout)
    if ref is not None:
        processes.stop([ref], 3 * STOP_SECONDS)
    orphans = [found.ref for found in processes.find(layout.state)]
    processes.stop(orphans, STOP_SECONDS)
    return ref is not None or bool(orphans)


def tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last lines of a log, with whatever looks like a secret cut out; nothing when there is no log."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _TAIL))
            return tuple(redact(file.read(_TAIL).decode(errors="replace")).splitlines()[-lines:])
    except OSError:
        return ()
