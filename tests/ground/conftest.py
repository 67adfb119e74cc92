"""Fixtures of the tests of the ground itself."""

from __future__ import annotations

import pytest

from support.kube import ground
from support.kube_assets.releases import Release


@pytest.fixture
def middle_ground() -> None:
    """For a test that starts a server in a process of its own: skips as the fixtures do."""
    ground.require(Release.MIDDLE)
