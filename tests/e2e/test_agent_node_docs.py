"""docs/agent-node-mode.md as written: its arguments start an agent, and its Envoy configuration is served by it."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from meshpki.agent.connections import affordable
from meshpki.agent.node_config import AT_ONCE
from meshpki_demo.envoy import Envoy
from support import ca_server
from support.command_line import invoke
from support.doc_pages import ROOT, blocks
from support.node_agent import NodeAgentProcess, links_of, put_token

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS_OF_AN_ENVOY = 2
PAGE = ROOT / "docs" / "agent-node-mode.md"


@pytest.fixture
def short_dir() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mpd-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


def arguments() -> list[str]:
    (block,) = blocks(PAGE, "yaml")
    return list(yaml.safe_load(block.text)["containers"][0]["args"])


def test_the_arguments_exist() -> None:
    help_text = invoke("agent", "run", "--help").out
    assert arguments()[:2] == ["agent", "run"]
    for argument in arguments()[2:]:
        assert argument.split("=")[0] in help_text


def sockets(agent: NodeAgentProcess) -> int:
    assert agent.process is not None
    return sum(link.startswith("socket:") for link in links_of(agent.process.pid))


@pytest.mark.e2e
def test_envoy_is_live_with_the_configuration_to_copy(short_dir: Path, tmp_path: Path) -> None:
    """Only paths and ports are others: the socket, the token's file, the port to listen on."""
    (block,) = blocks(PAGE, "envoy")
    with ca_server.running(tmp_path) as ca:
        taken = {"--ca-address", "--ca-roots", "--ca-server-name", "--sds-socket", "--status-file", "--http", "--node"}
        options = tuple(argument for argument in arguments()[2:] if argument.split("=")[0] not in taken)
        agent = NodeAgentProcess(short_dir, ca.server.address, options=options)
        agent.roots.write_bytes(ca.authority.root_pem)
        token = short_dir / "token"
        put_token(token, ca.maker.token(now=time.time(), name="server"))
        text = block.text.replace("/var/run/meshpki/node/sds.sock", str(agent.socket))
        text = text.replace("/var/run/secrets/tokens/istio-token", str(token)).replace("15006", "0")
        config = yaml.safe_load(text)
        where = short_dir / "envoy"
        config["admin"] = {"address": {"pipe": {"path": str(Envoy.admin_path(where)), "mode": 0o600}}}
        with agent:
            before = sockets(agent)
            with Envoy.start(where, config) as envoy:
                assert len(envoy.serials()) == 1
                assert sockets(agent) - before == CONNECTIONS_OF_AN_ENVOY


def test_the_limits_on_open_files_are_those_that_are_needed() -> None:
    """The table says of a number of workloads how many files the agent must be allowed to open, with the defaults."""
    table = PAGE.read_text().partition("| workloads |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| ([\d,]+) \| ([\d,]+) \|", table, re.MULTILINE)
    assert len(rows) >= 3
    for workloads, limit in rows:
        wanted, files = (int(number.replace(",", "")) for number in (workloads, limit))
        needed = CONNECTIONS_OF_AN_ENVOY * wanted
        assert affordable(needed, files, AT_ONCE) == needed
        assert affordable(needed, files - 1, AT_ONCE) < needed
