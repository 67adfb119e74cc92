"""The policy after `without_preemption`, in a process of its own: it stays with the thread and goes to its children."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from meshpki.runtime import scheduling

_SCRIPT = """
import json, os, threading
from meshpki.runtime.scheduling import without_preemption

def policy():
    return os.sched_getscheduler(0)

before = policy()
without_preemption()
found = []
thread = threading.Thread(target=lambda: found.append(policy()))
thread.start()
thread.join()
print(json.dumps([before, policy(), *found]))
"""


def test_this_thread_and_those_made_from_now_on() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [os.SCHED_OTHER, os.SCHED_BATCH, os.SCHED_BATCH]


def test_a_kernel_that_refuses_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    scheduling.without_preemption()
