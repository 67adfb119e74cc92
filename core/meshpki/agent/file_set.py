"""Key, chain and roots as files for plain programs: one set, changed in one step, as a kubelet does it.

    key.pem          -> ..data/key.pem
    cert-chain.pem   -> ..data/cert-chain.pem
    root-cert.pem    -> ..data/root-cert.pem
    ..data           -> ..set-<random>            this link is what changes

A program that opens the files one by one can be overtaken by a change between two of them, as in any such layout.
One that must not be resolves `..data` once (or opens it as a directory) and reads the set from there: the set before
the present one stays until the next change.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    PUBLIC_FILE,
    machine_errors,
    private_directory,
    sync_directory,
    write_atomically,
)

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.snapshot import Snapshot

KEY: Final = "key.pem"
CHAIN: Final = "cert-chain.pem"
ROOTS: Final = "root-cert.pem"
"""Istio's names (OUTPUT_CERTS)."""
DATA: Final = "..data"
_NEXT: Final = "..data.new"
_SET: Final = "..set-"


class FileSet:
    """The files of one identity in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory, and refuse one where other people's files stand in the way. Raises MachineError."""
        private_directory(self._directory)
        for name in (KEY, CHAIN, ROOTS, DATA):
            path = self._directory / name
            with machine_errors("could not examine", path):
                foreign = os.path.lexists(path) and not path.is_symlink()
            if foreign:
                raise MachineError(
                    f"{path} was not made by this agent",
                    wanted="a directory for the agent alone",
                    todo="move it away, or name another directory",
                )

    def write(self, snapshot: Snapshot) -> None:
        """Write a new set beside, make it the current one in one rename, drop all but it and the one before.

        Killed anywhere in between, the old set or the new one is current and whole; leftovers go with the next call.
        Raises MachineError.
        """
        self.prepare()
        before = self._current()
        with machine_errors("could not write the files in", self._directory):
            self._sweep(keep={before})
            name = self._write_set(snapshot)
            self._point(DATA, name)
            for stable in (KEY, CHAIN, ROOTS):
                if not (self._directory / stable).is_symlink():
                    self._point(stable, f"{DATA}/{stable}")
            sync_directory(self._directory)
            self._sweep(keep={before, name})

    def _current(self) -> str | None:
        link = self._directory / DATA
        return link.readlink().name if link.is_symlink() else None

    def _write_set(self, snapshot: Snapshot) -> str:
        name = _SET + secrets.token_hex(8)
        fresh = self._directory / name
        fresh.mkdir(mode=PRIVATE_DIRECTORY)
        write_atomically(fresh / KEY, snapshot.key_pem, mode=PRIVATE_FILE)
        write_atomically(fresh / CHAIN, snapshot.chain_pem, mode=PUBLIC_FILE)
        write_atomically(fresh / ROOTS, snapshot.bundle_pem, mode=PUBLIC_FILE)
        return name

    def _point(self, link: str, target: str) -> None:
        passing = self._directory / _NEXT
        passing.unlink(missing_ok=True)
        passing.symlink_to(target)
        passing.replace(self._directory / link)

    def _sweep(self, keep: set[str | None]) -> None:
        for entry in os.scandir(self._directory):
            if (
                entry.name.startswith(_SET)
                and entry.name not in keep
                and stat.S_ISDIR(entry.stat(follow_symlinks=False).st_mode)
            ):
                shutil.rmtree(entry.path)
