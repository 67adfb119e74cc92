"""A signal that says stop is heard, whichever thread it comes to and whenever."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from meshpki.runtime.signals_heard import heard

SCRIPT = """
import signal, threading
from meshpki.runtime.signals_heard import heard

def to_this_thread():
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.pthread_kill(threading.get_ident(), number)

signal.signal(signal.SIGUSR1, lambda *_: print("another"))
with heard(signal.SIGTERM, signal.SIGINT) as following:
    threading.Timer(0.3, to_this_thread).start()
    print("heard", following())
"""


def test_one_that_comes_to_another_thread_is_heard() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.splitlines() == ["another", f"heard {int(signal.SIGTERM)}"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_that_came_before_anybody_waited_is_not_lost(number: signal.Signals) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        with heard(*before) as following:
            signal.raise_signal(number)
            assert following() == number
        signal.raise_signal(number)  # and once more while the process ends
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
