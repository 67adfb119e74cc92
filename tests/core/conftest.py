"""What holds for the names of all tests of core."""

from __future__ import annotations

from typing import Final

import pytest

LONGEST: Final = 100


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """Name a case with a long text by its argument and a number: keys and tokens are others in every process, and
    pytest-xdist wants the same names in all. Nor do they belong into a report.
    """
    return argname if isinstance(val, (str, bytes)) and len(val) > LONGEST else None
