"""What `make test` says where a test fails: of a steady failure, of an unsteady one, and of too many."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from support import steady

TESTS = Path(__file__).parents[1]
ONCE = """
from pathlib import Path
def test_once():
    here = Path(__file__).with_suffix(".seen")
    before = here.exists()
    here.touch()
    assert before
"""


class Pytest:
    """Stands for pytest: gives one code after the other, and leaves a record of the tests that fail first."""

    def __init__(self, *codes: int, failed: tuple[str, ...] = ()) -> None:
        self.codes = list(codes)
        self.failed = failed
        self.asked: list[list[str]] = []

    def __call__(self, options: list[str]) -> int:
        self.asked.append(options)
        if self.failed and len(self.asked) == 1:
            steady.FAILED.parent.mkdir(parents=True, exist_ok=True)
            steady.FAILED.write_text(json.dumps(dict.fromkeys(self.failed, True)))
        return self.codes.pop(0)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("pytest_", "code"),
    [
        (Pytest(0), 0),
        (Pytest(2), 2),
        (Pytest(3), 3),
        (Pytest(5), 5),
        (Pytest(1, failed=("a.py::a", "b.py::b", "c.py::c")), 1),
        (Pytest(1, 1, failed=("a.py::a",)), 1),
        (Pytest(1, 0, 0, 1, failed=("a.py::a",)), 1),
        (Pytest(1, 0, 0, 0, 1, failed=("a.py::a", "b.py::b")), 1),
        (Pytest(1, 4, failed=("gone.py::a",)), 1),
    ],
    ids=map(str, range(9)),
)
def test_what_does_not_pass_every_time_is_no_unsteady_one(
    pytest_: Pytest, code: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steady, "_pytest", pytest_)
    assert steady.main(["-q"]) == code
    assert pytest_.codes == []
    assert "UNSTEADY" not in capfd.readouterr().out


def test_what_passes_every_time_is_named(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    failed = ("a.py::x[1@2]@group", "a.py::y")
    pytest_ = Pytest(1, 0, 0, 0, failed=failed)
    monkeypatch.setattr(steady, "_pytest", pytest_)
    assert steady.main(["-q"]) == 0
    said = capfd.readouterr().out
    assert "UNSTEADY: a.py::x[1@2] failed once" in said
    assert "UNSTEADY: a.py::y failed once" in said
    assert [options[0] for options in pytest_.asked] == ["-q", "a.py", "a.py", "a.py"]


def test_what_failed_in_an_earlier_run_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steady, "_pytest", Pytest(1, 1, failed=("a.py::a",)))
    assert steady.main([]) == 1
    monkeypatch.setattr(steady, "_pytest", Pytest(1))
    assert steady.main([]) == 1


def test_a_real_one_with_workers(tmp_path: Path) -> None:
    (tmp_path / "test_good.py").write_text("def test_good(): pass\n")
    (tmp_path / "test_once.py").write_text(ONCE)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    done = subprocess.run(
        [sys.executable, "-m", "support.steady", "-n1", "--dist=loadgroup"],
        env=environ | {"PYTHONPATH": str(TESTS), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=170,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "assert before" in done.stdout
    assert "UNSTEADY: test_once.py::test_once failed once" in done.stdout
    assert done.stdout.count("\n1 passed") == steady.TIMES


@pytest.mark.parametrize(
    ("name", "test"),
    [
        ("t.py::test_a", "t.py::test_a"),
        ("t.py::test_a@group", "t.py::test_a"),
        ("t.py::test_a[b@c]", "t.py::test_a[b@c]"),
        ("t.py::test_a[b@c]@group", "t.py::test_a[b@c]"),
    ],
)
def test_a_name_is_without_its_group(name: str, test: str) -> None:
    assert steady.failed_tests(json.dumps({name: True})) == [test]
