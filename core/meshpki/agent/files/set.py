"""Key, chain and roots as files for plain programs: one set, changed in one step, as a kubelet does it.

    key.pem                -> ..data/key.pem
    cert-chain.pem         -> ..data/cert-chain.pem
    root-cert.pem          -> ..data/root-cert.pem
    credential-bundle.pem  -> ..data/credential-bundle.pem      key and chain in one file
    ..data                 -> ..set-<random>                    this link is what changes

A program that opens key and chain one by one can be overtaken by a change between the two, as in any such layout.
One that must not be opens `..data` once, as a directory, and reads the set from there: the set before the present one
stays until the next change. Or it reads the one file that holds both.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from typing import TYPE_CHECKING, Final

from meshpki.agent.files.access import FileAccess
from meshpki.agent.rotation.acceptance import AnswerError, spiffe_id_of
from meshpki.agent.rotation.certificates import load_certificates
from meshpki.errors import MachineError
from meshpki.runtime.files import (
    PRIVATE_DIRECTORY,
    PRIVATE_FILE,
    PUBLIC_FILE,
    machine_errors,
    private_directory,
    read_capped,
    sync_directory,
)

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.identity import SpiffeId

KEY: Final = "key.pem"
CHAIN: Final = "cert-chain.pem"
ROOTS: Final = "root-cert.pem"
"""Istio's names (OUTPUT_CERTS)."""
CREDENTIAL: Final = "credential-bundle.pem"
"""As Kubernetes' `credentialBundlePath`: the private key, then the chain, leaf first."""
NAMES: Final = (KEY, CHAIN, ROOTS, CREDENTIAL)
DATA: Final = "..data"
_NEXT: Final = "..data.new"
_SET: Final = "..set-"
_MAX_CHAIN: Final = 256 * 1024
_OPEN: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class FileSet:
    """The files of one identity in a directory of their own."""

    def __init__(self, directory: Path, access: FileAccess | None = None) -> None:
        self._directory = directory
        self._access = access or FileAccess()

    @property
    def directory(self) -> Path:
        """Where the files are."""
        return self._directory

    def prepare(self) -> None:
        """Make the directory, and refuse one where other people's files stand in the way. Raises MachineError."""
        private_directory(self._directory, mode=self._access.directory_mode)
        for name in (*NAMES, DATA):
            path = self._directory / name
            with machine_errors("could not examine", path):
                foreign = os.path.lexists(path) and not path.is_symlink()
            if foreign:
                raise MachineError(
                    f"{path} was not made by this agent",
                    wanted="a directory for the agent alone",
                    todo="move it away, or name another directory",
                )
        with machine_errors("could not let the owner of the files into", self._directory):
            self._admit(self._directory)

    def write(self, snapshot: Snapshot) -> None:
        """Write a new set beside, make it the current one in one rename, drop all but it and the one before.

        Killed anywhere in between, the old set or the new one is current and whole; leftovers go with the next call.
        Raises MachineError.
        """
        self.prepare()
        with machine_errors("could not write the files in", self._directory):
            before = self._current()
            self._sweep(keep={before})
            name = self._write_set(snapshot)
            self._point(DATA, name)
            for stable in NAMES:
                if not (self._directory / stable).is_symlink():
                    self._point(stable, f"{DATA}/{stable}")
            sync_directory(self._directory)
            self._sweep(keep={before, name})

    def ends(self, spiffe_id: SpiffeId) -> int | None:
        """When the certificate in the current set expires, whichever run wrote it; None if it is another identity's."""
        try:
            leaf = load_certificates(read_capped(self._directory / DATA / CHAIN, limit=_MAX_CHAIN))[0]
            ours = spiffe_id_of(leaf) == spiffe_id
        except (MachineError, ValueError, AnswerError):
            return None
        return int(leaf.not_valid_after_utc.timestamp()) if ours else None

    def _current(self) -> str | None:
        link = self._directory / DATA
        return link.readlink().name if link.is_symlink() else None

    def _write_set(self, snapshot: Snapshot) -> str:
        name = _SET + secrets.token_hex(8)
        fresh = self._directory / name
        fresh.mkdir(mode=PRIVATE_DIRECTORY)
        try:
            self._create(fresh / KEY, snapshot.key_pem, self._access.mode)
            self._create(fresh / CHAIN, snapshot.chain_pem, PUBLIC_FILE)
            self._create(fresh / ROOTS, snapshot.bundle_pem, PUBLIC_FILE)
            self._create(fresh / CREDENTIAL, snapshot.key_pem + snapshot.chain_pem, self._access.mode)
            self._admit(fresh)
            sync_directory(fresh)
        except BaseException:  # on a full disk, half a set must not take the little room that is left
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        return name

    def _create(self, path: Path, content: bytes, mode: int) -> None:
        """Owner and mode before content: no moment in which somebody else can read it."""
        with os.fdopen(os.open(path, _OPEN, PRIVATE_FILE), "wb") as file:
            if self._access.uid is not None or self._access.gid is not None:
                os.fchown(file.fileno(), _or_unchanged(self._access.uid), _or_unchanged(self._access.gid))
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())

    def _admit(self, directory: Path) -> None:
        """Give a directory of ours the mode and the group that readers of the files need."""
        status = directory.stat()
        if self._access.gid is not None and status.st_gid != self._access.gid:
            os.chown(directory, -1, self._access.gid)
        if stat.S_IMODE(status.st_mode) & 0o777 != self._access.directory_mode:
            directory.chmod(self._access.directory_mode)

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


def _or_unchanged(number: int | None) -> int:
    return -1 if number is None else number


def own_paths(directory: Path) -> list[Path]:
    """What agents wrote in a directory, in the order in which it can be removed; whatever else is in it is not named.

    A set is named after its files, to be removed if it is empty then.
    """
    links = [directory / name for name in (*NAMES, DATA, _NEXT) if (directory / name).is_symlink()]
    sets = [path for path in directory.glob(f"{_SET}*") if path.is_dir() and not path.is_symlink()]
    files = [path / name for path in sets for name in NAMES if (path / name).is_file()]
    return [*links, *files, *sets]
