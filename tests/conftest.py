"""What holds around every test."""

from __future__ import annotations

import logging
import signal
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest_plugins = ["support.kube.plugin"]
MAX_ID = 60
LATELY = 1_700_000_000
"""Seconds since 1970; 2023."""

# How long an example takes says how busy this machine is, and nothing of the code.
settings.register_profile("meshpki", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("meshpki")

# Whoever starts the tests in the background may have them ignore these, and every process started here would inherit
# it: no Ctrl-C could be tried.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long value, and one that may be a time, after its parameter.

    Keys, tokens and the time are others in every process, and two workers that name a test differently run none at all.
    """
    nameless = len(val) > MAX_ID if isinstance(val, str | bytes) else isinstance(val, int | float) and val > LATELY
    return argname if nameless else None


@pytest.fixture(autouse=True)
def _told_as_usual() -> Iterator[None]:
    """A command inside a test may be asked to tell of errors in JSON; the next test is not."""
    yield
    failures = sys.modules.get("meshpki_cli.failures")
    if failures is not None:
        failures._Settings.form = failures.Form.LINES


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Commands that run inside a test set up this process's log; the next test must not hear with their ears."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
