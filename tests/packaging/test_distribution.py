"""The wheel holds every package and nothing else; the sdist holds all it takes to build the same wheel."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from support.distribution import Built

pytestmark = pytest.mark.xdist_group("packaging")
SOURCE_ROOTS = ("core", "cli", "plugins/*")
NO_CODE = {"__pycache__"}


def packages(tree: Path) -> dict[str, Path]:
    """Every top-level package in a source root, found in the tree and not in pyproject: that is what is on trial."""
    return {
        package.parent.name: package.parent
        for root in SOURCE_ROOTS
        for package in sorted(tree.glob(f"{root}/*/__init__.py"))
    }


def package_files(tree: Path) -> set[str]:
    return {
        str(PurePosixPath(name) / path.relative_to(folder).as_posix())
        for name, folder in packages(tree).items()
        for path in folder.rglob("*")
        if path.is_file() and not NO_CODE & set(path.parts)
    }


def metadata_folder(names: list[str]) -> str:
    (folder,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
    return folder


def test_the_tree_has_the_packages_we_know(built: Built) -> None:
    assert {"meshpki", "meshpki_cli", "meshpki_local"} <= set(packages(built.tree))


def test_every_file_of_every_package_is_in_the_wheel(built: Built) -> None:
    names = list(built.contents(built.wheel))
    shipped = {name for name in names if not name.startswith(metadata_folder(names))}
    assert shipped == package_files(built.tree)


def test_every_folder_of_modules_is_a_regular_package(built: Built) -> None:
    """A namespace package inside ours would be importable here and missing from type checkers and linters."""
    bare = [
        str(folder.relative_to(built.tree))
        for package in packages(built.tree).values()
        for folder in [package, *(path for path in package.rglob("*") if path.is_dir())]
        if not NO_CODE & set(folder.parts) and list(folder.glob("*.py")) and not (folder / "__init__.py").exists()
    ]
    assert bare == []


def test_every_package_is_typed(built: Built) -> None:
    contents = built.contents(built.wheel)
    assert [name for name in packages(built.tree) if f"{name}/py.typed" not in contents] == []


def test_the_wheel_built_from_the_sdist_is_the_same(built: Built) -> None:
    assert built.contents(built.wheel_of_sdist) == built.contents(built.wheel)


def test_the_entry_points_are_there_and_lead_somewhere(built: Built) -> None:
    contents = built.contents(built.wheel)
    parser = configparser.ConfigParser()
    parser.read_string(contents[f"{metadata_folder(list(contents))}/entry_points.txt"].decode())
    assert dict(parser["console_scripts"]) == {"meshpki": "meshpki_cli.entry:main"}
    assert parser["meshpki.plugins"]["local"] == "meshpki_local.plugin"
    for target in [*parser["console_scripts"].values(), *parser["meshpki.plugins"].values()]:
        assert f"{target.split(':')[0].replace('.', '/')}.py" in contents


def test_licence_and_readme_travel_along(built: Built) -> None:
    contents = built.contents(built.wheel)
    folder = metadata_folder(list(contents))
    assert b"Apache License" in contents[f"{folder}/licenses/LICENSE"]
    metadata = contents[f"{folder}/METADATA"].decode()
    assert "License-Expression: Apache-2.0" in metadata
    assert (built.tree / "README.md").read_text(encoding="utf-8").strip() in metadata


def test_the_sdist_holds_what_the_readme_tells_to_run(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        members = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    wanted = {
        "Makefile",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "constraints.txt",
        "pyproject.toml",
        "deploy/demo/meshpki_demo/__main__.py",
        "tests/packaging/test_distribution.py",
        "benchmarks/__main__.py",
    }
    assert wanted - members == set()


def test_the_wheel_works_where_no_checkout_is(built: Built, tmp_path: Path) -> None:
    """Unpacked alone, before everything else on the path, it answers; and it is the one that answers."""
    target = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", target, built.wheel], check=True, cwd=tmp_path, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONSAFEPATH": "1"}
    code = "import meshpki, meshpki_cli.app, meshpki_local.plugin as p; print(meshpki.__file__, p.__file__)"
    where = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert where.stdout.count(str(target)) == 2
    answer = subprocess.run(
        [sys.executable, "-m", "meshpki_cli", "--help"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env=environment,
    )
    assert answer.returncode == 0, answer.stderr
    assert "provision" in answer.stdout
