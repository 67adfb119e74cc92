"""Static certificates and a short directory: two Envoys can meet without an agent."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki_demo.app import EchoApp
from support.static_authority import StaticAuthority

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short() -> Iterator[Path]:
    """A directory whose path leaves room for a unix socket's name: pytest's own may not."""
    path = Path(tempfile.mkdtemp(prefix="mp-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def authority(short: Path) -> StaticAuthority:
    return StaticAuthority(short / "pki")


@pytest.fixture
def app() -> Iterator[EchoApp]:
    with EchoApp() as running:
        yield running
