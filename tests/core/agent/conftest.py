"""What the agent's tests share: a short directory for sockets, a fake CA, a token file, an agent as a process."""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.agent_process import AgentFiles
from support.fake_ca import FakeCa

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A directory whose path leaves room for a socket's name: pytest's own can be longer than 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="mpa-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def ca() -> Iterator[FakeCa]:
    with FakeCa() as server:
        yield server


@pytest.fixture
def files(short_dir: Path, ca: FakeCa) -> AgentFiles:
    """Roots and a good token, and where an agent's socket, files and status go."""
    made = AgentFiles(short_dir)
    made.roots.write_bytes(ca.authority.roots_pem)
    made.write_token(expires_at=time.time() + 3600)
    return made
