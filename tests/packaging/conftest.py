"""Builds the distribution once for all tests of this folder."""

from __future__ import annotations

import pytest

from support.distribution import Built, build


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("built"))
