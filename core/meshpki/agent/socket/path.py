"""The path of a unix socket: a private directory, nothing of others overwritten, gone when we go.

A socket is bound under a passing name beside its path and renamed into place once it is served: whoever finds
it finds a server behind it, and what stood there before is replaced in one step.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import machine_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATH_BYTES: Final = 107
"""Of `sun_path` on Linux, which has 108 with its final NUL."""
SOCKET_MODE: Final = 0o660
DIRECTORY_MODE: Final = 0o750
_PASSING: Final = ".sds-"
_PROBE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class OwnSocket:
    """A socket that we put in place: its path, and what tells it from one that came later."""

    path: Path
    device: int
    inode: int

    def remove(self) -> None:
        """Unlink it if it is still ours."""
        with machine_errors("could not remove", self.path), contextlib.suppress(FileNotFoundError):
            status = self.path.lstat()
            if (status.st_dev, status.st_ino) == (self.device, self.inode):
                self.path.unlink()


def prepare(path: Path, *, shared: bool = False) -> None:
    """Make the directory when it is missing, and refuse a path that we could not serve. Raises MachineError.

    `shared`: others may write in the directory, which is root's or ours: a Kubernetes emptyDir (ADR 0012).
    """
    if not path.name:
        todo = f"name a socket in a directory, such as {path / 'sds' / 'sds.sock'}"
        raise MachineError(f"{path} is a directory", wanted="the path of a socket", todo=todo)
    longest = max(len(os.fsencode(path.name)), len(os.fsencode(_passing_name(path).name)))
    length = len(os.fsencode(path.parent)) + 1 + longest
    if length > MAX_PATH_BYTES:
        raise MachineError(
            f"the socket path {path} needs {length} bytes",
            wanted=f"at most {MAX_PATH_BYTES}, for Linux allows no longer one",
            todo="name a directory with a shorter path",
        )
    _prepare_directory(path.parent, shared=shared)
    _check_free(path)


@contextlib.contextmanager
def taking_over(path: Path) -> Iterator[Path]:
    """Give the passing path to bind, while no other agent takes the same one. Call `put_in_place` inside."""
    with machine_errors("could not lock", path.parent):
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        _check_free(path)
        _sweep(path.parent)
        yield _passing_name(path)
    finally:
        os.close(directory)


def put_in_place(passing: Path, path: Path) -> OwnSocket:
    """Set the mode and rename: from here on clients find it."""
    with machine_errors("could not put a socket at", path):
        passing.chmod(SOCKET_MODE)
        status = passing.lstat()
        passing.replace(path)
    return OwnSocket(path, status.st_dev, status.st_ino)


def _passing_name(path: Path) -> Path:
    return path.with_name(_PASSING + secrets.token_hex(2))


def _prepare_directory(directory: Path, *, shared: bool) -> None:
    with machine_errors("could not make directory", directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
        try:
            directory.mkdir(mode=DIRECTORY_MODE)
        except FileExistsError:
            status = directory.lstat()
        else:
            # In an emptyDir with an fsGroup the new directory has that group and its set-group-id bit, and by the bit
            # the socket gets the group too, so that a proxy that runs as another user can connect.
            directory.chmod(DIRECTORY_MODE | (directory.lstat().st_mode & stat.S_ISGID))
            return
    if not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no directory"
        raise MachineError(
            f"{directory} is {kind}", wanted="a directory of its own for the socket", todo="name another path"
        )
    if status.st_uid != os.geteuid() and not (shared and status.st_uid == 0):
        raise MachineError(
            f"{directory} belongs to user {status.st_uid}",
            wanted=f"a directory of user {os.geteuid()}, as whom this runs",
            todo="name another directory, or run as its owner",
        )
    if status.st_mode & 0o027 and not shared:
        raise MachineError(
            f"{directory} has mode {stat.S_IMODE(status.st_mode):04o}: others could reach or replace the socket",
            wanted=f"mode {DIRECTORY_MODE:04o} or stricter",
            todo=f"name a directory in it, which is made ({directory / 'sds' / 'sds.sock'}), or chmod 750 {directory};"
            " if only this pod's containers share it, say --shared-socket-directory",
        )


def _check_free(path: Path) -> None:
    """Nothing, or a socket that nobody listens on; anything else is refused and left alone."""
    with machine_errors("could not examine", path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return
    if not stat.S_ISSOCK(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "something that is no socket"
        raise MachineError(
            f"{path} is {kind}", wanted="nothing, or a socket", todo="name another path, or move it away"
        )
    if _is_live(path):
        raise MachineError(
            f"somebody already listens on {path}",
            wanted="a path of our own",
            todo="stop the other agent, or name another path",
        )


def _is_live(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # full backlog, no permission: somebody is there
            return True
        return True


def _sweep(directory: Path) -> None:
    """Remove passing sockets of agents that were killed before they could rename them."""
    for leftover in directory.glob(f"{_PASSING}*"):
        with machine_errors("could not remove", leftover):
            if stat.S_ISSOCK(leftover.lstat().st_mode):
                leftover.unlink()


def own_paths(path: Path) -> list[Path]:
    """The socket at `path`, and those that killed agents left beside it: of what is there, all that is an agent's."""
    return [
        found for found in (path, *path.parent.glob(f"{_PASSING}*")) if found.is_socket() and not found.is_symlink()
    ]
