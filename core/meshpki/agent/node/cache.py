"""A node's cache: a private directory with one file for each token that the CA accepted. See node_cache_entry.

Nothing of it is held in memory. Everything here blocks, and is called by one thread at a time: see NodeCacheLine.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from typing import TYPE_CHECKING

from meshpki.agent.node import cache_entry as entry
from meshpki.agent.renewal.cache import CacheError
from meshpki.errors import MachineError
from meshpki.runtime.files import (
    check_private_directory,
    machine_errors,
    private_directory,
    read_private,
    write_atomically,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshpki.agent.node.actions import TokenKey
    from meshpki.agent.renewal.keeper import Held
    from meshpki.agent.rotation.bundle import Roots

log = logging.getLogger(__name__)


class NodeCache:
    """The entries in `directory`, which may be on tmpfs. `ca` says whose answers they keep."""

    def __init__(self, directory: Path, bounds: entry.Bounds, ca: str = "") -> None:
        self._directory = directory
        self._bounds = bounds
        self._ca = ca
        self._room = entry.Bounds(0, 0)
        """How much may still come before the directory has to be looked through: at least, for some replace others."""
        self._complaints: set[str] = set()

    def path(self, key: TokenKey) -> Path:
        """Where this token's entry is, if it has one."""
        return self._directory / entry.name_of(key)

    def has(self, key: TokenKey) -> bool:
        """Whether there is anything of this token's name. Does not raise: what cannot be looked at is not there."""
        return os.path.lexists(self.path(key))

    def load(self, key: TokenKey, token_ends: int, roots: Roots, now: float) -> Held:
        """Give what an earlier run was given for this very token. Raises CacheError, AnswerError or MachineError."""
        check_private_directory(self._directory)
        path = self.path(key)
        if path.is_symlink():
            raise CacheError("it is a symbolic link")
        return entry.examine(read_private(path, limit=entry.MAX_BYTES), key, token_ends, roots, now, ca=self._ca)

    def store(self, key: TokenKey, token_ends: int, held: Held, now: float) -> bool:
        """Keep what the CA has just given for this very token; False if that failed, which is logged, once."""
        said = "an entry could not be written to the cache"
        try:
            self._write(key, token_ends, held, now)
        except MachineError as error:
            self._complain(said, error)
            return False
        self._complaints.discard(said)
        return True

    def _write(self, key: TokenKey, token_ends: int, held: Held, now: float) -> None:
        content = entry.render(key, token_ends, held, self._ca)
        if len(content) > entry.MAX_BYTES:
            raise MachineError("a certificate with its roots is too large for the cache", wanted="fewer roots")
        private_directory(self._directory)
        if self._room.entries < 1 or self._room.size < len(content):
            self._sweep(now)
        # When it is over stands in the file's own time: whoever clears up need not read a thousand keys.
        write_atomically(self.path(key), content, time=entry.ends_of(token_ends, held))
        self._room = entry.Bounds(self._room.entries - 1, self._room.size - len(content))

    def remove(self, key: TokenKey) -> None:
        """Forget what was given for this token: the CA has refused it."""
        with self._complaining("the entry of a refused token could not be removed from the cache"):
            self._unlink(self.path(key))

    def sweep(self, now: float) -> None:
        """Remove what is over."""
        with self._complaining("the cache could not be looked through"):
            if os.path.lexists(self._directory):
                check_private_directory(self._directory)
                self._sweep(now)

    def _sweep(self, now: float) -> None:
        with machine_errors("could not look through", self._directory):
            found = list(self._found())
        gone = entry.surplus(found, self._bounds, now)
        for one in gone:
            self._unlink(self._directory / one.name)
        if gone:
            log.info("entries were removed from the cache: over, or too many", extra={"entries": len(gone)})
        self._room = entry.Bounds(
            self._bounds.entries - len(found) + len(gone),
            self._bounds.size - sum(one.size for one in found) + sum(one.size for one in gone),
        )

    def _found(self) -> Iterator[entry.Found]:
        with os.scandir(self._directory) as files:
            for file in files:
                if entry.is_ours(file.name):
                    status = file.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(status.st_mode):
                        yield entry.Found(file.name, status.st_mtime, status.st_size)

    def _unlink(self, path: Path) -> None:
        with machine_errors("could not remove", path):
            path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _complaining(self, message: str) -> Iterator[None]:
        try:
            yield
        except MachineError as error:
            self._complain(message, error)
        else:
            self._complaints.discard(message)

    def _complain(self, message: str, error: MachineError) -> None:
        """Say once what is wrong with the disk: it is so for every workload of the node."""
        level = logging.DEBUG if message in self._complaints else logging.WARNING
        log.log(level, message, extra={"seen": error.seen, "todo": error.todo})
        self._complaints.add(message)
