"""A flood of refused tokens: a warning for each reason and not for each token, and every one of them counted."""

from __future__ import annotations

import time
import urllib.request
from typing import TYPE_CHECKING

import grpc
import pytest

from support import ca_server
from support.agent_process import wait_until
from support.node_agent import NodeAgentProcess, Stream, free_ports, with_token
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e
FORGED, SHAPELESS = 12, 9


def ended(stream: Stream) -> grpc.StatusCode:
    with stream, pytest.raises(grpc.RpcError) as caught:
        stream.secrets()
    return caught.value.code()


def test_a_flood_is_a_line_for_each_reason_and_a_number_for_each(short_dir: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    stranger = TokenMaker(slot=1)
    with ca_server.running(tmp_path) as ca:
        options = ("--http", f"127.0.0.1:{port}")
        agent = NodeAgentProcess(short_dir, ca.server.address, options=options, log_level="info")
        agent.roots.write_bytes(ca.authority.root_pem)
        with agent:
            tokens = [stranger.token(now=time.time(), name=f"w{number}", pod="w-0") for number in range(FORGED)]
            tokens += [b"shapeless"] * SHAPELESS
            for token in (tokens[0], *tokens):  # one of them twice, before it is forgotten
                assert ended(Stream(agent.socket, with_token(token), "default")) is grpc.StatusCode.UNAUTHENTICATED
            total = len(tokens) + FORGED + 1  # each forged token is refused, and so is each call that brings one
            wait_until(lambda: sum(agent.status().get("refused", {}).values()) == total, "all of them counted")
            counted = agent.status()["refused"]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
                metrics = answer.read().decode()
        log = agent.log.read_text()
    assert counted["token_bad_signature"] == FORGED
    assert counted["token_malformed"] == SHAPELESS
    assert counted["call_with_refused_token"] == FORGED + 1, "as often as somebody came"
    for reason, count in counted.items():
        assert f'meshpki_agent_refused_total{{reason="{reason}"}} {count}.0' in metrics
    said = log.count("no renewal: the CA refused")
    assert said == 1, "one warning for one reason, within a minute"
    assert log.count('"a call is refused"') == 2
    assert '"reason": "call_with_refused_token"' in log
    assert '"reason": "token_malformed"' in log
    assert "token_bad_signature" in log
