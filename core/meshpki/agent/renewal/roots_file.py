"""The configured roots of a process, kept up to date: the last good content of their file, and word of each change."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from meshpki.agent.rotation.bundle import WANTED, read_roots
from meshpki.errors import InvalidValueError, MachineError
from meshpki.runtime.files import read_capped
from meshpki.runtime.wakeup import Signal
from meshpki.runtime.watch import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.rotation.bundle import Roots
    from meshpki.runtime.watch import Print, Watcher

log = logging.getLogger(__name__)

MAX_ROOTS_BYTES: Final = 1024 * 1024
NONE_YET: Final = "there are no roots yet: nobody can be told from the CA, and no certificate is asked for"
TODO: Final = (
    "put the CA's root certificate there (root-cert.pem of `meshpki ca init`), or name another file with --ca-roots"
)
SETTLE_SECONDS: Final = 0.05
"""A file that is made anew in place is there before it is written: what comes in one go is read once."""


class RootsFile:
    """Every keeper of the process reads the same. A content that is no good is said, and changes nothing."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        self._roots: Roots = ()
        self._changed = Signal()
        self._read: Print | None = None
        self._refused = ""

    @property
    def current(self) -> Roots:
        """The last good content; empty before the first."""
        return self._roots

    @property
    def lacking(self) -> str:
        """Why there are none; for as long as `current` is empty."""
        return self._refused

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done at the next change of `current`: see Signal.next."""
        return self._changed.next()

    def refresh(self) -> None:
        """Read the file if it is another one than last time. One stat otherwise."""
        if self._read is None or fingerprint(self._path) != self._read:
            self.reload()

    def reload(self) -> None:
        """Read the file, whatever its time stamps say."""
        self._read = fingerprint(self._path)
        try:
            roots = read_roots(read_capped(self._path, limit=MAX_ROOTS_BYTES))
        except (MachineError, InvalidValueError) as error:
            self._refuse(error.seen if isinstance(error, MachineError) else f"{self._path}: {error.seen}", error.wanted)
            return
        self._refused = ""
        if roots != self._roots:
            added, removed = set(roots) - set(self._roots), set(self._roots) - set(roots)
            log.info(
                "the configured roots",
                extra={"count": len(roots), "added": len(added), "removed": len(removed), "file": str(self._path)},
            )
            self._roots = roots
            self._changed.wake()

    def _refuse(self, seen: str, wanted: str) -> None:
        if self._refused != seen:
            self._refused = seen
            log.warning(
                "the file of roots is no good; what it held before stays in force" if self._roots else NONE_YET,
                extra={
                    "file": str(self._path),
                    "seen": seen,
                    "wanted": wanted or WANTED,
                    "todo": TODO,
                    "held": len(self._roots),
                },
            )

    async def run(self) -> None:
        """Follow the file until cancelled."""
        watch = self._watcher.watch(self._path)
        try:
            while True:
                changed = watch.changes()
                self.reload()
                await asyncio.wait([changed])
                await asyncio.sleep(SETTLE_SECONDS)
        finally:
            watch.close()
