"""Archives: only what is whole, has its published hash and is of its release gets into the cache."""

from __future__ import annotations

import io
import subprocess
import tarfile
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from support.kube_assets import __main__ as command
from support.kube_assets import archive, choosing, placing
from support.kube_assets.choosing import Archive, Situation
from support.kube_assets.failures import AssetError
from support.kube_assets.progress import Progress
from support.kube_assets.releases import CACHE_VARIABLE, Release, present, program
from support.kube_assets_host import Host, packed, script, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BARE = Situation(architecture="amd64", cores=2)
PATH = f"/{Release.MODERN}/kubernetes-server-linux-amd64.tar.gz"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def host() -> Iterator[Host]:
    with serving() as found:
        yield found


@pytest.fixture
def said() -> io.StringIO:
    return io.StringIO()


@pytest.fixture(autouse=True)
def _no_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be downloaded is not to be had here."""
    monkeypatch.setattr(choosing, "_builds", lambda release, situation: ([], []))


def fill(host: Host, said: io.StringIO, release: Release = Release.MODERN) -> bool:
    """Whether the release is in the cache afterwards."""
    missing = command.fill([release], Progress(said), replace(BARE, downloads=host.url))
    assert present(release) is not bool(missing)
    return not missing


@pytest.mark.parametrize("algorithms", [("sha512",), ("sha256",), ("sha256", "sha512")])
def test_it_is_fetched_checked_and_placed(
    cache: Path, host: Host, said: io.StringIO, algorithms: tuple[str, ...]
) -> None:
    host.publish(Release.MODERN, packed(), *algorithms)
    assert fill(host, said)
    assert program(Release.MODERN).read_bytes() == script()
    assert subprocess.run([program(Release.MODERN)], capture_output=True, check=True).stdout == b"Kubernetes v1.37.2\n"
    assert sorted(entry.name for entry in cache.iterdir()) == ["lock", "v1.37.2"]
    assert "is there, after" in said.getvalue()
    asked = len(host.asked)
    assert fill(host, said)
    assert len(host.asked) == asked, "what is there is not fetched again"


def refused(host: Host, said: io.StringIO, cache: Path, release: Release = Release.MODERN) -> str:
    """Why nothing came into the cache; and nothing half done is left in it."""
    assert not fill(host, said, release)
    assert [entry.name for entry in cache.iterdir() if entry.name != "lock" and list(entry.iterdir())] == []
    assert not list(cache.glob(f"{placing.WORK_PREFIX}*"))
    return said.getvalue()


def test_another_hash_is_refused(cache: Path, host: Host, said: io.StringIO) -> None:
    host.publish(Release.MODERN, packed(), "sha512")
    host.files[PATH] = packed(script() + b"# and more\n")
    assert "published is" in refused(host, said, cache)


def test_the_pinned_hash_counts_and_not_the_one_beside_it(cache: Path, host: Host, said: io.StringIO) -> None:
    path = host.publish(Release.FOUNDING, packed(script(Release.FOUNDING)), "sha512", "sha256")
    assert "published is a8e3d457" in refused(host, said, cache, Release.FOUNDING)
    assert host.asked == [path]


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "no hash is published beside"),
        ({PATH: packed()}, "no hash is published beside"),
        ({f"{PATH}.sha512": b"<html>"}, "holds no sha512"),
        ({f"{PATH}.sha512": b"0" * 64}, "holds no sha512"),
        ({f"{PATH}.sha512": b"0" * 129}, "holds no sha512"),
        ({f"{PATH}.sha256": b"0" * 64}, "HTTP 404"),
    ],
)
def test_nothing_without_a_hash(cache: Path, host: Host, said: io.StringIO, files: dict[str, bytes], why: str) -> None:
    host.files = files
    assert why in refused(host, said, cache)


def test_half_a_download_is_refused(cache: Path, host: Host, said: io.StringIO) -> None:
    whole = packed()
    host.publish(Release.MODERN, whole, "sha512")
    host.cut[PATH] = len(whole) // 2
    assert f"broke off after {len(whole) // 2} of {len(whole)} bytes" in refused(host, said, cache)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no archive", id="no-archive"),
        pytest.param(packed(member="kubernetes/other"), id="without-the-program"),
        pytest.param(packed(kind=tarfile.DIRTYPE), id="a-folder"),
        pytest.param(packed(kind=tarfile.SYMTYPE), id="a-link"),
        pytest.param(packed()[:60], id="a-piece"),
    ],
)
def test_an_archive_without_the_program(cache: Path, host: Host, said: io.StringIO, content: bytes) -> None:
    host.publish(Release.MODERN, content, "sha512")
    assert "archive" in refused(host, said, cache)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (script("v1.36.0"), "says it is v1.36.0, not v1.37.2"),
        (b"#!/bin/sh\nexit 1\n", "nothing that runs here"),
        (b"\x7fELF", "nothing that runs here"),
        (b"#!/bin/sh\necho v1.37.2\n", "nothing that runs here"),
    ],
)
def test_a_program_that_is_not_what_it_should_be(
    cache: Path, host: Host, said: io.StringIO, content: bytes, why: str
) -> None:
    host.publish(Release.MODERN, packed(content), "sha512")
    assert why in refused(host, said, cache)


def test_a_host_that_cannot_be_reached(tmp_path: Path, said: io.StringIO) -> None:
    with serving() as gone:
        url = gone.url
    with pytest.raises(AssetError, match=r"cannot be reached: .*refused"):
        archive.fetch(Archive(f"{url}/x.tar.gz", None), tmp_path, Progress(said))


def test_a_host_that_did_not_answer_is_not_asked_again(cache: Path, said: io.StringIO) -> None:
    with serving() as gone:
        url = gone.url
    missing = command.fill(list(Release), Progress(said), replace(BARE, downloads=url))
    assert missing == list(Release)
    assert said.getvalue().count("cannot be reached") == 1
    assert said.getvalue().count("did not answer before") == 2


def test_one_way_fails_and_the_next_is_tried(cache: Path, host: Host, said: io.StringIO, tmp_path: Path) -> None:
    there = tmp_path / "kube-apiserver"
    there.write_bytes(script("v1.36.0"))
    host.publish(Release.MODERN, packed(), "sha512")
    situation = replace(BARE, downloads=host.url, kubebuilder=there, kubebuilder_version="v1.37.2")
    assert command.fill([Release.MODERN], Progress(said), situation) == []
    assert "the program says it is v1.36.0, not v1.37.2" in said.getvalue()
    assert program(Release.MODERN).read_bytes() == script()
    assert there.read_bytes() == script("v1.36.0"), "what somebody else has put there stays as it is"
