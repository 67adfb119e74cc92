"""What is kept in the repository: versions without addresses, no lock files, nothing of the machine it was made on."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9][A-Za-z0-9.!+_-]*")
LOCK_FILES = re.compile(
    r"(^|/)([^/]*\.lock|[^/]*-lock\.(json|yaml)|pylock[^/]*\.toml|Pipfile.*|pip\.conf|\.netrc|\.pypirc)$"
)
# Written so that this file does not match itself.
MACHINE = re.compile(
    r"(?<![\w.$}~/-])/(?:home|Users|root|work|workspace|mnt)/[\w.-]+"  # somebody's directory
    r"|/opt/(?:wheels|python)"
    r"|files\.pythonhosted\.|pypi\.org/(?:simple|packages)|registry\.npmjs|artifactor[y]|devp[i]"
    r"|--(?:extra-)?index-url|--find-link[s]|--trusted-hos[t]",
)


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip("no git checkout: what is tracked cannot be told")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constrained() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {normalised(line.split("==")[0]): line for line in lines}


def test_constraints_name_packages_and_versions_only() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not PINNED.fullmatch(line)] == []
    assert sorted(lines, key=lambda line: line.split("==")[0].lower()) == lines
    assert len(constrained()) == len(lines)


def test_every_dependency_is_constrained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(item for extra in project["optional-dependencies"].values() for item in extra),
    ]
    names = {normalised(re.split(r"[<>=!~;\[ ]", requirement)[0]) for requirement in wanted}
    assert names - set(constrained()) == set()


def test_no_lock_files() -> None:
    assert [path for path in tracked() if LOCK_FILES.search(path.as_posix())] == []


def test_nothing_of_a_machine_or_a_registry() -> None:
    found = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in MACHINE.finditer(text)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "cd " + "/home" + "/somebody/src",
        "see " + "/work" + "/main/x",
        "pip install --" + "index-url x",
        "https://pypi.org/" + "simple/pkg",
    ],
)
def test_the_search_finds_what_it_is_for(text: str) -> None:
    assert MACHINE.search(text)


@pytest.mark.parametrize("text", ["https://pypi.org/project/meshpki", "$HOME/work/x", "deploy/home/x", "~/work/x"])
def test_the_search_leaves_the_rest_alone(text: str) -> None:
    assert not MACHINE.search(text)
