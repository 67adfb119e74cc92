"""The status file of an agent: written when it changes; a disk that takes nothing is said once, and once it is well."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshpki.errors import MachineError
from meshpki.runtime.files import machine_errors, write_atomically

if TYPE_CHECKING:
    from pathlib import Path

log = logging.getLogger(__name__)


class StatusFile:
    """One file. A full disk must not stop a renewal: what could not be written is tried again at the next change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written = b""
        self._failed = False

    def begin(self) -> None:
        """Remove what an earlier run wrote, for it is no longer true. Raises MachineError."""
        with machine_errors("could not remove", self._path):
            self._path.unlink(missing_ok=True)

    def write(self, content: bytes) -> None:
        """Write it, if it is not what the file holds."""
        if content == self._written:
            return
        try:
            write_atomically(self._path, content)
        except MachineError as error:
            log.log(
                logging.DEBUG if self._failed else logging.WARNING,
                "the status could not be written: what the file says is old",
                extra={"file": str(self._path), "seen": error.seen, "todo": error.todo},
            )
            self._failed = True
            return
        if self._failed:
            log.info("the status is written again", extra={"file": str(self._path)})
        self._written, self._failed = content, False
