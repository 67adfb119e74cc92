"""Puts a program in its place in the cache: one run at a time, tried first, whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from support.kube_assets.failures import AssetError
from support.kube_assets.releases import Release, cache_directory, program

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube_assets.progress import Progress

WORK_PREFIX = "work-"


@contextlib.contextmanager
def locked(progress: Progress) -> Iterator[None]:
    """Hold the cache for this run alone; wait for another run that holds it."""
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.step(f"Another run fills {cache}; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for left in cache.glob(f"{WORK_PREFIX}*"):  # of a run that was killed
            shutil.rmtree(left, ignore_errors=True)
        yield


@contextlib.contextmanager
def work_directory() -> Iterator[Path]:
    """A directory on the cache's own file system, gone afterwards."""
    made = Path(tempfile.mkdtemp(prefix=WORK_PREFIX, dir=cache_directory()))
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def place(release: Release, made: Path) -> None:
    """Try the program, and rename it into its place; raises AssetError when it is not what it should be."""
    made.chmod(0o755)
    found = version(made)
    if found != release:
        raise AssetError(f"the program says it is {found or 'nothing that runs here'}, not {release}")
    with made.open("rb") as file:
        os.fsync(file.fileno())
    target = program(release)
    target.parent.mkdir(exist_ok=True)
    made.replace(target)


def version(path: Path) -> str | None:
    """What a program says it is ("v1.37.2"), or None when it does not run."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    words = said.stdout.split()
    return words[-1] if words[:1] == ["Kubernetes"] else None
