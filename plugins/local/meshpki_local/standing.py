"""What stands at a path of ours: nothing, ours, or something that we must not touch; and taking ours away."""

from __future__ import annotations

import os
import stat
from enum import Enum
from glob import escape
from shlex import quote
from typing import TYPE_CHECKING

from meshpki.hooks import EffectState, Observation
from meshpki.runtime.files import machine_errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from meshpki.errors import MeshpkiError


def foreign(detail: str) -> Observation:
    """Something that we did not make is in the way; `detail` says what, and what to do."""
    return Observation(EffectState.FOREIGN, detail)


class Kind(Enum):
    """What we make at a path: its word, how it is told, and what others may not do with it."""

    FILE = ("file", stat.S_ISREG, 0o022)
    DIRECTORY = ("directory", stat.S_ISDIR, 0o077)
    OPEN_DIRECTORY = ("directory", stat.S_ISDIR, 0o027)
    """One that a group may enter, for the socket in it."""
    SOCKET = ("socket", stat.S_ISSOCK, 0)
    LINK = ("symbolic link", stat.S_ISLNK, 0)
    """Of a set of files that an agent writes."""


def damaged(error: MeshpkiError) -> Observation:
    """What is ours is not as we made it; the error says how, and what to do."""
    return Observation(EffectState.DAMAGED, str(error))


def obstacle(path: Path, kind: Kind = Kind.FILE) -> str:
    """Why `path` is neither absent nor of that kind and ours, with no way in for others; else empty."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be examined: {error.strerror}; run as the user who owns it"
    word, told, mask = kind.value
    if stat.S_ISLNK(status.st_mode) and kind is not Kind.LINK:
        return f"{path} is a symbolic link, not a {word} of ours; move it away"
    if not told(status.st_mode):
        return f"{path} is no {word}; move it away"
    if status.st_uid != os.geteuid():
        owners = f"{path} belongs to user {status.st_uid}, and this runs as {os.geteuid()}"
        return f"{owners}; run as its owner, or move it away"
    if status.st_mode & mask:
        mode = stat.S_IMODE(status.st_mode)
        todo = f"chmod {mode & ~mask:o} {quote(str(path))}"
        return f"{path} has mode {mode:04o}: others can get at it; look what is in it, then {todo}"
    return ""


def first_obstacle(
    *, files: Iterable[Path] = (), directories: Iterable[Path] = (), others: Iterable[tuple[Path, Kind]] = ()
) -> str:
    """The first of `obstacle` for several paths; directories first, for files are inside them."""
    found = (
        *((path, Kind.DIRECTORY) for path in directories),
        *((path, Kind.FILE) for path in files),
        *others,
    )
    return next((text for path, kind in found if (text := obstacle(path, kind))), "")


def is_directory(path: Path) -> bool:
    """Whether a real directory stands there, and no link to one."""
    return path.is_dir() and not path.is_symlink()


def own_files(*paths: Path) -> list[Path]:
    """Those of `paths` that are regular files, and what killed writers left beside them."""
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    return [*files, *(left for path in paths for left in _left_beside(path))]


def _left_beside(path: Path) -> list[Path]:
    """As `runtime.files.write_atomically` names it."""
    return [left for left in path.parent.glob(f".{escape(path.name)}.*.new") if left.is_file()]


def remove_file(path: Path) -> None:
    """Remove a file, and what a killed writer left beside it; a link that stands there stays. Raises MachineError."""
    with machine_errors("could not remove", path):
        for file in own_files(path):
            file.unlink(missing_ok=True)


def sweep(path: Path) -> None:
    """Remove what a killed writer of `path` left beside it. Only for the one writer of that file. MachineError."""
    with machine_errors("could not remove what was left beside", path):
        for left in _left_beside(path):
            left.unlink(missing_ok=True)


def remove_if_empty(path: Path) -> bool:
    """Remove a directory unless something is left in it; True when it is gone."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
