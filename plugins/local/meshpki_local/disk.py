"""Whether a file system takes more: asked before processes are started on it, and when they do not get well."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

TO_BEGIN: Final = 1 << 20
"""Bytes to begin with: an installation of a few workloads takes a fifth of that, the rest is for its logs."""
TO_GO_ON: Final = 64 << 10
_NO_SUCH_FILES: Final = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL})
"""What open(2) says where a file system knows no files without a name, and fallocate(2) where it reserves nothing."""


def check_room(directory: Path, size: int) -> None:
    """Raise MachineError when the file system of `directory` has no room for so many bytes, or for one file more.

    By reserving them for a file without a name, which leaves nothing behind: that hears of quotas too.
    """
    try:
        _reserve(directory, size)
    except OSError as error:
        raise MachineError(
            f"the file system of {directory} has no room for {size >> 10} KiB: {error.strerror}",
            wanted="room for keys, certificates and logs",
            todo=f"free some space on it (see `df -h {directory}` and `df -i {directory}`), then run the same again",
        ) from error


def _reserve(directory: Path, size: int) -> None:
    try:
        descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _NO_SUCH_FILES:
            raise
        _count(directory, size)


def _count(directory: Path, size: int) -> None:
    found = os.statvfs(directory)
    if found.f_bavail * found.f_frsize < size or (found.f_files and not found.f_favail):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
