"""The distribution, built from a copy of this tree: an sdist, a wheel, and a wheel out of the sdist."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", ".*_cache", ".hypothesis", "build", "dist", "results"
)


@dataclass(frozen=True, slots=True)
class Built:
    """The tree that was built, and what came of it."""

    tree: Path
    sdist: Path
    wheel: Path
    wheel_of_sdist: Path

    def contents(self, wheel: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(wheel) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


def _run(*argv: str | Path, cwd: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *argv], cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _wheel(source: Path, out: Path) -> Path:
    # No build isolation: an index cannot be counted on, and hatchling is in the dev extra.
    _run("pip", "wheel", source, "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", out, cwd=out.parent)
    (wheel,) = out.glob("*.whl")
    return wheel


def build(place: Path) -> Built:
    """Build below `place`, with no index and no `.git`."""
    tree = place / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_SOURCES, symlinks=True)
    _run("hatchling", "build", "-t", "sdist", "-d", place / "sdist", cwd=tree)
    (sdist,) = (place / "sdist").glob("*.tar.gz")
    return Built(tree, sdist, _wheel(tree, place / "wheel"), _wheel(sdist, place / "again"))
