"""Fill the cache with the Kubernetes programs that the tests run on: `python -m support.kube_assets [RELEASE...]`.

What is there stays. With --if-possible a machine that cannot get them is no failure: the tests will say what they
left out, unless MESHPKI_REQUIRE_KUBE=1 wants them all.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from support.kube_assets import archive, building, placing
from support.kube_assets.choosing import Archive, Build, Installed, Situation, Source, choose
from support.kube_assets.failures import AssetError, UnreachableError
from support.kube_assets.progress import Progress
from support.kube_assets.releases import PROGRAM, Release, architecture, present, program

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERRUPTED = 130


def survey() -> Situation:
    """Look at this machine."""
    named = os.environ.get("KUBEBUILDER_ASSETS")
    kubebuilder = Path(named) / PROGRAM if named else None
    go = shutil.which("go")
    return Situation(
        architecture=architecture(),
        cores=len(os.sched_getaffinity(0)),
        kubebuilder=kubebuilder,
        kubebuilder_version=placing.version(kubebuilder) if kubebuilder else None,
        go=Path(go) if go else None,
        go_version=_go_version(go) if go else None,
    )


def _go_version(go: str) -> tuple[int, ...] | None:
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False)
    found = re.match(r"go(\d+)\.(\d+)(?:\.(\d+))?", said.stdout)
    return tuple(int(number) for number in found.groups() if number) if found else None


def obtain(release: Release, situation: Situation, progress: Progress) -> tuple[bool, Situation]:
    """Try each way in turn until the program is in its place; whether it is, and what was learnt about this machine."""
    choice = choose(release, situation)
    progress.step(f"{PROGRAM} {release} is not in {program(release).parent}.")
    for reason in choice.passed_over:
        progress.step(f"  not tried: {reason}")
    for source in choice.sources:
        progress.step(f"  {source} ...")
        began = time.monotonic()
        try:
            with placing.work_directory() as work:
                placing.place(release, _make(release, source, work, progress))
        except AssetError as error:
            progress.step(f"  no: {error}")
            if isinstance(error, UnreachableError):
                situation = replace(situation, reached=False)
        else:
            progress.step(f"  {program(release)} is there, after {time.monotonic() - began:.0f} s")
            return True, situation
    return False, situation


def _make(release: Release, source: Source, work: Path, progress: Progress) -> Path:
    match source:
        case Installed(path):
            return Path(shutil.copyfile(path, work / PROGRAM))
        case Archive():
            return archive.fetch(source, work, progress)
        case Build():
            return building.build(release, source, work, progress)


def fill(releases: Sequence[Release], progress: Progress, situation: Situation | None = None) -> list[Release]:
    """Get what is missing of these releases; those that could not be had."""
    if all(present(release) for release in releases):
        return []
    with placing.locked(progress):
        wanted = [release for release in releases if not present(release)]  # another run may have got them meanwhile
        found, missing = situation or survey(), []
        for release in wanted:
            there, found = obtain(release, found, progress)
            if not there:
                missing.append(release)
        return missing


def _interrupt(number: int, frame: object) -> NoReturn:
    del number, frame
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser("python -m support.kube_assets", description=__doc__.partition("\n")[0])
    parser.add_argument("release", nargs="*", type=Release, default=list(Release), help=", ".join(Release))
    parser.add_argument("--if-possible", action="store_true", help="no failure unless MESHPKI_REQUIRE_KUBE=1")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    progress = Progress()
    try:
        missing = fill(options.release, progress)
    except KeyboardInterrupt:
        progress.step("Interrupted; nothing half done is left behind.")
        return INTERRUPTED
    finally:
        progress.close()
    if not missing:
        return 0
    optional = options.if_possible and os.environ.get("MESHPKI_REQUIRE_KUBE") != "1"
    progress.step(f"Not to be had: {', '.join(missing)}." + (" Tests that need them will be left out." * optional))
    return 0 if optional else 1


if __name__ == "__main__":
    sys.exit(main())
