"""What stands at a path of ours: nothing, ours, or something that we must not touch; and taking ours away."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from typing import TYPE_CHECKING

from meshpki.hooks import EffectState, Observation
from meshpki.runtime.files import machine_errors

if TYPE_CHECKING:
    from pathlib import Path


def foreign(detail: str) -> Observation:
    """Something that we did not make is in the way; `detail` says what, and what to do."""
    return Observation(EffectState.FOREIGN, detail)


def obstacle(path: Path, *, directory: bool = False) -> str:
    """Why `path` is neither absent nor a file (or directory) of ours that others cannot change; else empty."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be examined: {error.strerror}; run as the user who owns it"
    wanted = "directory" if directory else "file"
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a symbolic link, not a {wanted} of ours; move it away"
    if not (stat.S_ISDIR if directory else stat.S_ISREG)(status.st_mode):
        return f"{path} is no {wanted}; move it away"
    if status.st_uid != os.geteuid():
        owners = f"{path} belongs to user {status.st_uid}, and this runs as {os.geteuid()}"
        return f"{owners}; run as its owner, or move it away"
    mask = 0o077 if directory else 0o022
    if status.st_mode & mask:
        mode = stat.S_IMODE(status.st_mode)
        return (
            f"{path} has mode {mode:04o}: others can get at it; look what is in it, then chmod {mode & ~mask:o} {path}"
        )
    return ""


def first_obstacle(*, files: tuple[Path, ...] = (), directories: tuple[Path, ...] = ()) -> str:
    """The first of `obstacle` for several paths; directories first, for files are inside them."""
    found = [obstacle(path, directory=True) for path in directories] + [obstacle(path) for path in files]
    return next((text for text in found if text), "")


def remove_file(path: Path) -> None:
    """Remove a file, and what a killed writer left beside it (`runtime.files.write_atomically`). MachineError."""
    with machine_errors("could not remove", path), contextlib.suppress(FileNotFoundError):
        path.unlink()
    sweep(path)


def sweep(path: Path) -> None:
    """Remove what a killed writer of `path` left beside it. Only for the one writer of that file. MachineError."""
    with machine_errors("could not remove what was left beside", path):
        for left in path.parent.glob(f".{path.name}.*.new"):
            left.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory of ours with all that is in it; a link to one only as the link. Raises MachineError."""
    with machine_errors("could not remove", path):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)


def remove_if_empty(path: Path) -> bool:
    """Remove a directory unless something is left in it; True when it is gone."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
