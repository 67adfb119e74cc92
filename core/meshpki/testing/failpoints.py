"""Names for every instruction of a run where a kill matters, and the kill itself. Never active in a normal run.

The engine calls an injected `checkpoint(name)` there; nothing but this package ever injects one that acts.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

VARIABLE: Final = "MESHPKI_FAILPOINT"

NEW_JOURNAL: Final = ("journal.directory", "journal.tables", "journal.in-place")
OLD_JOURNAL: Final = ("journal.directory", "journal.tables")
CHANGE: Final = ("recorded", "intended", "applied", "proven", "done")
RESUMED_CHANGE: Final = ("resumed", "proven", "done")
REMOVAL: Final = ("removal-intended", "removal-applied", "removed")
ERASURE: Final = ("journal.closed", "journal.aside", "journal.emptied")


def of_provision(changes: Iterable[str]) -> tuple[str, ...]:
    """Name every checkpoint of a first run that makes these changes, in order."""
    made = (f"{change}.{step}" for change in changes for step in CHANGE)
    return (*NEW_JOURNAL, "run.begun", *made, "run.ended")


def of_update(changes: Iterable[str], removals: Iterable[str]) -> tuple[str, ...]:
    """Name every checkpoint of a later run that makes or updates these changes and then removes others."""
    made = (f"{change}.{step}" for change in changes for step in CHANGE)
    removed = (f"{change}.{step}" for change in removals for step in REMOVAL)
    return (*OLD_JOURNAL, "run.begun", *made, *removed, "run.ended")


def of_deprovision(changes: Iterable[str]) -> tuple[str, ...]:
    """Name every checkpoint of the run that takes back these changes, given in the order in which they were made."""
    removed = (f"{change}.{step}" for change in reversed(tuple(changes)) for step in REMOVAL)
    return (*OLD_JOURNAL, "run.begun", *removed, "run.ended", *ERASURE)


class Recorder:
    """A checkpoint that notes the names."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __call__(self, name: str) -> None:
        """Note `name`."""
        self.names.append(name)


def kill_here(name: str) -> None:
    """End this process as `kill -9` does, if MESHPKI_FAILPOINT names this place."""
    if os.environ.get(VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
