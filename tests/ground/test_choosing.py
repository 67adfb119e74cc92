"""Where a program comes from: by what this machine has, in which order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from support.kube_assets.choosing import GO_DISTRIBUTION, Archive, Build, Installed, Situation, choose
from support.kube_assets.releases import CACHE_VARIABLE, Release, architecture, cache_directory, program

GO = Path("/opt/go/bin/go")
BARE = Situation(architecture="amd64", cores=2)
WITH_GO = replace(BARE, go=GO, go_version=(1, 26, 8))
KUBEBUILDER = Path("/opt/assets/kube-apiserver")


def ways(release: Release, situation: Situation) -> list[str]:
    """The sources, shortened to what tells them apart."""
    names = []
    for source in choose(release, situation).sources:
        match source:
            case Installed():
                names.append("installed")
            case Archive():
                names.append("archive")
            case Build(go):
                names.append(f"build {go.name if go else 'packaged'}")
    return names


@pytest.mark.parametrize(
    ("release", "situation", "wanted"),
    [
        (Release.MODERN, BARE, ["archive", "build packaged"]),
        (Release.FOUNDING, BARE, ["archive", "build packaged"]),
        (Release.MODERN, WITH_GO, ["archive", "build go"]),
        (Release.MODERN, replace(WITH_GO, go_version=(1, 26)), ["archive", "build go"]),
        (Release.MODERN, replace(WITH_GO, go_version=(1, 25, 9)), ["archive", "build packaged"]),
        (Release.MODERN, replace(WITH_GO, go_version=None), ["archive", "build packaged"]),
        (Release.FOUNDING, replace(WITH_GO, go_version=(1, 30, 1)), ["archive", "build go", "build packaged"]),
        (Release.MODERN, replace(WITH_GO, architecture="riscv64"), ["build go"]),
        (Release.MODERN, replace(WITH_GO, reached=False), ["build go"]),
        (
            Release.MODERN,
            replace(WITH_GO, kubebuilder=KUBEBUILDER, kubebuilder_version="v1.37.2"),
            ["installed", "archive", "build go"],
        ),
        (
            Release.MODERN,
            replace(WITH_GO, kubebuilder=KUBEBUILDER, kubebuilder_version="v1.36.2"),
            ["archive", "build go"],
        ),
        (Release.MODERN, replace(WITH_GO, kubebuilder=KUBEBUILDER), ["archive", "build go"]),
        (
            Release.FOUNDING,
            replace(WITH_GO, kubebuilder=KUBEBUILDER, kubebuilder_version="v1.13.0"),
            ["archive", "build go"],
        ),
    ],
)
def test_the_order(release: Release, situation: Situation, wanted: list[str]) -> None:
    assert ways(release, situation) == wanted


@pytest.mark.parametrize(
    ("situation", "said"),
    [
        (BARE, "no go on PATH"),
        (replace(WITH_GO, go_version=(1, 25, 9)), "/opt/go/bin/go is 1.25.9, too old: 1.26 is needed"),
        (replace(WITH_GO, go_version=None), "of no version that can be read"),
        (replace(WITH_GO, reached=False), "https://dl.k8s.io, which did not answer before"),
        (replace(WITH_GO, architecture="riscv64"), "no official archive for riscv64"),
        (replace(WITH_GO, kubebuilder=KUBEBUILDER, kubebuilder_version="v1.36.2"), "is v1.36.2, not v1.37.2"),
        (replace(WITH_GO, kubebuilder=KUBEBUILDER), "is nothing that runs, not v1.37.2"),
    ],
)
def test_what_is_passed_over_is_said(situation: Situation, said: str) -> None:
    (reason,) = choose(Release.MODERN, situation).passed_over
    assert said in reason


def test_nothing_is_passed_over_where_everything_is_usual() -> None:
    assert choose(Release.MODERN, WITH_GO).passed_over == ()


@pytest.mark.parametrize("release", list(Release))
def test_every_release_has_a_recipe_and_an_honest_number(release: Release) -> None:
    from support.kube_assets.building import RECIPES

    (alone,) = [found for found in choose(release, WITH_GO).sources if isinstance(found, Build)]
    (crowd,) = [found for found in choose(release, replace(WITH_GO, cores=64)).sources if isinstance(found, Build)]
    assert (RECIPES / alone.recipe).is_file()
    assert (RECIPES / release).is_dir()
    assert alone.minutes > crowd.minutes >= 1
    assert f"about {alone.minutes} minutes" in str(alone)
    assert GO_DISTRIBUTION in str(replace(alone, go=None))


def test_archives_are_those_of_the_architecture_and_the_oldest_is_pinned() -> None:
    for release in Release:
        for name in ("amd64", "arm64"):
            archive = choose(release, replace(BARE, architecture=name)).sources[0]
            assert isinstance(archive, Archive)
            assert archive.url == f"https://dl.k8s.io/{release}/kubernetes-server-linux-{name}.tar.gz"
            assert (archive.sha512 is not None) is (release is Release.FOUNDING and name == "amd64")


def test_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert program(Release.FOUNDING) == Path("/caches/meshpki/kube/v1.13.0/kube-apiserver")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/people/jo")
    assert cache_directory() == Path("/people/jo/.cache/meshpki/kube")
    monkeypatch.setenv(CACHE_VARIABLE, "/here")
    assert program(Release.MODERN) == Path("/here/v1.37.2/kube-apiserver")
    assert architecture() in {"amd64", "arm64"}


def test_ages() -> None:
    assert [release.minor for release in Release] == [13, 30, 37]
