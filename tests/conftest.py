"""What holds around every test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


MAX_ID = 60


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a long value after its parameter: keys and tokens are other ones in every process, and no name at all."""
    return argname if isinstance(val, str | bytes) and len(val) > MAX_ID else None


@pytest.fixture(autouse=True)
def _log_as_it_was() -> Iterator[None]:
    """Commands that run inside a test set up this process's log; the next test must not hear with their ears."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
