"""The limit of open files after `allow_all`, in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from meshpki.runtime import open_files

_SCRIPT = """
import resource
from meshpki.runtime.open_files import allow_all

resource.setrlimit(resource.RLIMIT_NOFILE, (64, 96))
print(allow_all(), *resource.getrlimit(resource.RLIMIT_NOFILE))
files = [open("/dev/null") for _ in range(80)]
print(allow_all())
"""


def test_the_soft_limit_becomes_the_hard_one() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["96", "96", "96", "96"]


def test_a_machine_that_refuses_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 96))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert open_files.allow_all() == 64


_REQUIRE = """
import os, resource
from meshpki.runtime.open_files import OpenFilesError, require

before = len(os.listdir("/proc/self/fd"))
require(8, "could not call")
assert len(os.listdir("/proc/self/fd")) == before
resource.setrlimit(resource.RLIMIT_NOFILE, (16, 16))
files = [open("/dev/null") for _ in range(10)]
try:
    require(8, "could not call")
except OpenFilesError as error:
    print(error.seen)
    print(error.todo)
files.pop()
open("/dev/null").close()  # what was tried for was given back
"""


def test_room_for_several_is_asked_for_before_the_first_is_used() -> None:
    done = subprocess.run([sys.executable, "-c", _REQUIRE], capture_output=True, text=True, check=True)
    seen, todo = done.stdout.splitlines()
    assert seen == "could not call: Too many open files; this process may have 16 (RLIMIT_NOFILE)"
    assert "ulimit -n" in todo
