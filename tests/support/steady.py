"""`python -m support.steady [PYTEST OPTIONS]`: every test, and what failed in it again by itself, said either way.

Thousands of tests on real servers share a busy machine, and one that meets a stall nobody thought of says little of the
change at hand. It is never let pass in silence: how it failed is in the output, its name in the last lines, and its
whole module has to pass several times. Where more than a few fail nothing is tried again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MOST = 2
"""Tests that may have failed."""
TIMES = 3
"""That each of their modules has to pass then."""
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main(options: list[str]) -> int:
    """Give pytest's own exit code, and 0 where what failed is unsteady."""
    FAILED.unlink(missing_ok=True)
    code = _pytest(options)
    if code != pytest.ExitCode.TESTS_FAILED or not FAILED.exists():
        return code
    failed = failed_tests(FAILED.read_text())
    if len(failed) > MOST:
        print(f"{len(failed)} tests failed: more than {MOST} are not tried again")
        return code
    for module in sorted({test.partition("::")[0] for test in failed}):
        print(f"trying {module} {TIMES} times by itself", flush=True)
        if any(_pytest([module, "-q", "-p", "no:cacheprovider"]) for _ in range(TIMES)):
            return code
    for test in failed:
        print(f"UNSTEADY: {test} failed once among all (see above) and passed {TIMES} times by itself")
    return 0


def failed_tests(last_failed: str) -> list[str]:
    """Give the names in pytest's own record of what failed, without the group that xdist puts after them."""
    return sorted({_without_group(name) for name in json.loads(last_failed)})


def _without_group(name: str) -> str:
    """An @ of a parameter stays: it stands before the bracket that closes them."""
    before, at, group = name.rpartition("@")
    return before if at and "]" not in group else name


def _pytest(options: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pytest", *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
