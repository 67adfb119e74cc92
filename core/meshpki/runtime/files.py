"""Private files and directories: written beside and renamed, capped when read, refused when not ours."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.errors import MachineError
from meshpki.runtime.open_files import OpenFilesError

if TYPE_CHECKING:
    from collections.abc import Iterator

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
PUBLIC_FILE = 0o644


@contextlib.contextmanager
def machine_errors(doing: str, path: Path) -> Iterator[None]:
    """Translate an OSError of the body into a MachineError that says what to do about it."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise OpenFilesError(f"{doing} {path}") from error
        raise MachineError(f"{doing} {path}: {error.strerror or error}", todo=_advice(error.errno, path)) from error


def _advice(number: int | None, path: Path) -> str:
    match number:
        case errno.ENOSPC | errno.EDQUOT:
            return f"free some space on the file system of {path.parent}; what runs on tries again by itself"
        case errno.EACCES | errno.EPERM:
            return "run as the user who owns it, or name another directory"
        case errno.EROFS:
            return "that file system is read-only: name a directory on another one"
        case errno.ENOENT:
            return "check the path"
        case errno.ENFILE:
            return "this machine as a whole has too many files open: see /proc/sys/fs/file-nr"
        case errno.ELOOP:
            return "a symbolic link stands there: name the real path"
        case _:
            return "see the message of the operating system"


def write_atomically(path: Path, content: bytes, *, mode: int = PRIVATE_FILE, time: float | None = None) -> None:
    """Write beside, fsync, rename over `path`, fsync the directory: a reader sees the old bytes or the new.

    The temporary file is created exclusively with `mode`, so that a key is never readable by others, not even
    for a moment. `time`, in epoch seconds, is what the file has for its own from its first moment at `path` on.
    Raises MachineError.
    """
    if not path.name:
        raise MachineError(f"could not write {path}: it is a directory", wanted="the name of a file")
    beside = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}.new")
    with machine_errors("could not write", path):
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                if time is not None:
                    os.utime(file.fileno(), (time, time))
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            beside.unlink(missing_ok=True)
            raise
        sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make renames and creations in `path` durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_capped(path: Path, *, limit: int) -> bytes:
    """Read at most `limit` bytes of a regular file. Raises MachineError when it is larger, or no regular file."""
    with machine_errors("could not read", path), open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise MachineError(f"{path} is no regular file", wanted="a regular file")
        content = file.read(limit + 1)
    if len(content) > limit:
        raise MachineError(f"{path} is larger than {limit} bytes", wanted=f"a file of at most {limit} bytes")
    return content


def _without_waiting(path: str, flags: int) -> int:
    """Open a named pipe that nobody writes to without waiting for somebody; regular files are not concerned."""
    return os.open(path, flags | os.O_NONBLOCK)


def read_private(path: Path, *, limit: int) -> bytes:
    """Read a key file as `read_capped` does, but only if it is ours and no one else may read it."""
    with machine_errors("could not examine", path):
        status = path.stat()
    if status.st_uid != os.geteuid():
        raise MachineError(
            f"{path} belongs to user {status.st_uid}",
            wanted=f"a file of user {os.geteuid()}, as whom this runs",
            todo="run as its owner, or name another file",
        )
    if status.st_mode & 0o077:
        raise MachineError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others can read the key in it",
            wanted="mode 0600",
            todo=f"chmod 600 {shlex.quote(str(path))}, and replace the key if somebody may have read it",
        )
    return read_capped(path, limit=limit)


def private_directory(path: Path, *, mode: int = PRIVATE_DIRECTORY) -> bool:
    """Make sure `path` is a directory of that mode or a stricter one that is ours; True if this call made it.

    Parents are made with the default mode. Raises MachineError when something else stands there, when it is a
    symbolic link, when it belongs to somebody else, or when others than `mode` says can enter it.
    """
    with machine_errors("could not make directory", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            path.mkdir(mode=PRIVATE_DIRECTORY)
        except FileExistsError:
            check_private_directory(path, mode=mode)
            return False
        path.chmod(mode)
    return True


def check_private_directory(path: Path, *, mode: int = PRIVATE_DIRECTORY) -> None:
    """Raise MachineError unless `path` is a real directory of ours with that mode or a stricter one."""
    with machine_errors("could not examine", path):
        status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        raise MachineError(f"{path} is {kind}", wanted="a directory", todo="name another directory, or move it away")
    if status.st_uid != os.geteuid():
        raise MachineError(
            f"{path} belongs to user {status.st_uid}",
            wanted=f"a directory of user {os.geteuid()}, as whom this runs",
            todo="name another directory, or run as its owner",
        )
    if status.st_mode & 0o777 & ~mode:
        raise MachineError(
            f"{path} has mode {stat.S_IMODE(status.st_mode):04o}: others can enter it",
            wanted=f"mode {mode:04o}",
            todo=f"name a directory of its own; or chmod {mode:o} {shlex.quote(str(path))}, if all in it is meshpki's",
        )
