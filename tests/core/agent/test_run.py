"""The agent as a process, against a CA that really signs and misbehaves on request."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from support.agent_process import AgentProcess, wait_until

if TYPE_CHECKING:
    from support.agent_process import AgentFiles
    from support.fake_ca import FakeCa

pytestmark = pytest.mark.e2e


def test_serves_and_stops(ca: FakeCa, files: AgentFiles) -> None:
    with AgentProcess(files.config(ca), files.log) as agent:
        wait_until(lambda: files.read_status().get("state") == "fresh", "fresh")
        wait_until(files.socket.is_socket, "a socket")
        assert (files.certs / "key.pem").stat().st_mode & 0o777 == 0o600
        assert agent.stop() == 0
    assert not files.socket.exists()
    assert time.time() < files.read_status()["not_after"]
