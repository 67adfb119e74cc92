"""Secrets out of files, for the clients that name them: read below the operator's directories, and followed.

A file is looked at only while a stream asks for it. What it held last stays in force while it is no good, as between
the two writes of a program that replaces a certificate and then its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.agent.sds.file_names import CertificateFiles, RootsFile, SystemRoots, is_file_name, parse
from meshpki.agent.sds.file_secret import certificate_from, roots_from
from meshpki.errors import IntegrityError, InvalidValueError, MachineError, MeshpkiError
from meshpki.runtime.files import machine_errors
from meshpki.runtime.repeats import Repeats
from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from meshpki.agent.sds.file_names import FileName
    from meshpki.agent.sds.resources import Resource
    from meshpki.runtime.watch import Watcher

log = logging.getLogger(__name__)

MAX_CHAIN_BYTES: Final = 256 * 1024
MAX_KEY_BYTES: Final = 32 * 1024
MAX_ROOTS_BYTES: Final = 1024 * 1024
MAX_HELD: Final = 256
"""Names that are followed at one time, by all streams together."""
SETTLE_SECONDS: Final = 0.05
GONE_SECONDS: Final = 1.0
"""A file that is missing for longer is gone; for shorter, it was being replaced."""
SYSTEM_ROOTS: Final = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/pki/tls/cacert.pem"),
    Path("/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)
"""Where the usual distributions keep the public CAs. Whoever may read the machine's files may read this."""


class FileReader:
    """Reads what a name stands for, or says why not. `directories` are the operator's; none means: no such files."""

    def __init__(self, directories: Sequence[Path], system_roots: Sequence[Path] = SYSTEM_ROOTS) -> None:
        self._directories = tuple(Path(os.path.abspath(directory)) for directory in directories)  # noqa: PTH100 - resolves no link
        self._system_roots = tuple(system_roots)

    def paths(self, name: FileName) -> tuple[Path, ...]:
        """Give the files behind a name, to be watched. Raises InvalidValueError when it can be none."""
        match name:
            case CertificateFiles():
                return self._allowed(Path(name.certificate)), self._allowed(Path(name.key))
            case RootsFile():
                return (self._allowed(Path(name.path)),)
            case SystemRoots():
                for path in self._system_roots:
                    if path.is_file():
                        return (path,)
                raise InvalidValueError("this machine has no bundle of public CAs", wanted="a file of them")

    def read(self, text: str, name: FileName) -> Resource:
        """Read a secret. Raises MachineError, InvalidValueError or IntegrityError."""
        paths = self.paths(name)
        match name:
            case CertificateFiles():
                chain = read_below(paths[0], self._directories, limit=MAX_CHAIN_BYTES)
                return certificate_from(text, chain, read_below(paths[1], self._directories, limit=MAX_KEY_BYTES))
            case RootsFile():
                return roots_from(text, read_below(paths[0], self._directories, limit=MAX_ROOTS_BYTES))
            case SystemRoots():
                return roots_from(text, read_below(paths[0], (Path("/"),), limit=MAX_ROOTS_BYTES))

    def _allowed(self, path: Path) -> Path:
        """By its spelling; where it leads is looked at when it is open."""
        if not any(path.is_relative_to(directory) for directory in self._directories):
            raise _outside(path)
        return path


def _outside(path: Path) -> InvalidValueError:
    return InvalidValueError(
        f"{str(path)[:200]!r} is outside the directories for secrets", wanted="a file below one of --secret-files"
    )


def read_below(path: Path, directories: Sequence[Path], *, limit: int) -> bytes:
    """Read a regular file that lies below one of `directories`, wherever links may lead in the meantime.

    The file is first held without being opened (O_PATH: no device wakes up, no pipe blocks), and what the kernel says
    it is, and where, decides. Raises MachineError, and InvalidValueError for a file elsewhere.
    """
    with machine_errors("could not read", path), contextlib.ExitStack() as stack:
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        stack.callback(os.close, held)
        place = f"/proc/self/fd/{held}"
        real = Path(os.readlink(place))  # noqa: PTH115 - of the descriptor, not of a path
        if not any(real.is_relative_to(directory.resolve()) for directory in directories):
            raise _outside(path)
        if not stat.S_ISREG(os.fstat(held).st_mode):
            raise MachineError(f"{path} is no regular file", wanted="a regular file")
        with open(place, "rb") as file:  # noqa: PTH123 - the very file that was looked at
            content = file.read(limit + 1)
    if len(content) > limit:
        raise MachineError(f"{path} is larger than {limit} bytes", wanted=f"a file of at most {limit} bytes")
    return content


@dataclass(slots=True)
class _Followed:
    """One name while somebody asks for it."""

    task: asyncio.Task[None] | None = None
    users: int = 0
    resource: Resource | None = None
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    complaint: str = ""


class SecretFiles:
    """All files of a process that some stream asks for, each read once for all of them."""

    def __init__(self, reader: FileReader, watcher: Watcher) -> None:
        self._reader = reader
        self._watcher = watcher
        self._followed: dict[str, _Followed] = {}
        self._changed = Signal()
        self._too_many = Repeats(log, "too many secrets in files are asked for")
        self._unserved = Repeats(log, "a secret in a file is not served, or not anew")

    def open(self) -> FileView:
        """Give one stream's view."""
        return FileView(self)

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done when any of them has changed: see Signal.next."""
        return self._changed.next()

    def resource(self, name: str) -> Resource | None:
        """Give what a name holds now."""
        followed = self._followed.get(name)
        return followed.resource if followed else None

    def follow(self, name: str) -> asyncio.Event | None:
        """Begin to follow a name for one more who asks; gives the event of the first look at it. None when too many
        are followed already.
        """
        followed = self._followed.get(name)
        if followed is None:
            if len(self._followed) >= MAX_HELD:
                self._too_many.say("", {"at_most": MAX_HELD})
                return None
            followed = self._followed[name] = _Followed()
            followed.task = asyncio.create_task(self._run(name, followed))
        followed.users += 1
        return followed.looked

    def leave(self, name: str) -> None:
        """Stop following for one of those who asked."""
        followed = self._followed[name]
        followed.users -= 1
        if not followed.users:
            del self._followed[name]
            if followed.task is not None:
                followed.task.cancel()

    async def _run(self, text: str, followed: _Followed) -> None:
        """Look, and look again at each change, until cancelled. A name that can never be good is looked at once."""
        try:
            name = parse(text)
            paths = self._reader.paths(name)
        except InvalidValueError as error:
            self._complain(text, followed, error)
            followed.looked.set()
            return
        with contextlib.ExitStack() as stack:
            stack.callback(followed.looked.set)
            watches = [self._watcher.watch(path) for path in paths]
            for watch in watches:
                stack.callback(watch.close)
            missing = False
            while True:
                changes = [watch.changes() for watch in watches]
                missing = await self._look(text, name, followed, missing=missing)
                followed.looked.set()
                doubtful = missing and followed.resource is not None
                await asyncio.wait(
                    changes, timeout=GONE_SECONDS if doubtful else None, return_when=asyncio.FIRST_COMPLETED
                )
                await asyncio.sleep(SETTLE_SECONDS)

    async def _look(self, text: str, name: FileName, followed: _Followed, *, missing: bool) -> bool:
        """Read; True when there is no such file. `missing`: nor was there last time, so it is gone."""
        try:
            resource = await asyncio.to_thread(self._reader.read, text, name)
        except (MachineError, InvalidValueError, IntegrityError) as error:
            self._complain(text, followed, error)
            absent = isinstance(error.__cause__, FileNotFoundError)
            if absent and missing:
                self._take(followed, None)
            return absent
        followed.complaint = ""
        self._take(followed, resource)
        return False

    def _take(self, followed: _Followed, resource: Resource | None) -> None:
        if resource != followed.resource:
            followed.resource = resource
            self._changed.wake()

    def _complain(self, text: str, followed: _Followed, error: MeshpkiError) -> None:
        """Once for each new reason, and not without end: names are the client's to make up."""
        if followed.complaint == error.seen:
            return
        followed.complaint = error.seen
        said = text[:200]
        self._unserved.say(f"{said} {error.seen}", {"secret": said, "seen": error.seen, "wanted": error.wanted})


class FileView:
    """The files that one stream asks for. `close` it, and they are followed for it no more."""

    def __init__(self, files: SecretFiles) -> None:
        self._files = files
        self._names: set[str] = set()

    async def want(self, names: Iterable[str]) -> None:
        """Follow just these names from now on; returns when each was looked at. Names of another kind are skipped."""
        wanted = {name for name in names if is_file_name(name)}
        for name in self._names - wanted:
            self._names.discard(name)
            self._files.leave(name)
        for name in sorted(wanted - self._names):
            looked = self._files.follow(name)
            if looked is not None:
                self._names.add(name)
                await looked.wait()

    @property
    def current(self) -> Mapping[str, Resource]:
        """What there is of them now."""
        found = {name: self._files.resource(name) for name in self._names}
        return {name: resource for name, resource in found.items() if resource is not None}

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done when one may have changed. Take it before looking at `current`."""
        return self._files.changes()

    def close(self) -> None:
        """Follow none of them any more."""
        for name in self._names:
            self._files.leave(name)
        self._names.clear()
