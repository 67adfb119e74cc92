"""What a node's agent shows: how many tokens stand where, who was turned away and why, and if anybody is served."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.node.actions import Why
from meshpki.agent.node.run import unready
from meshpki.agent.node.sessions import _CALLS, _STATUS
from meshpki.agent.renewal.keeper import KeeperStatus
from meshpki.agent.rotation.bundle import Bundle
from meshpki.agent.rotation.failure import Failure, FailureKind
from meshpki.hooks import Health
from support import ca_server
from support.agent_process import wait_until
from support.crowd import numbers_in, page
from support.node_agent import NodeAgentProcess, Stream, free_ports, with_token
from support.snapshots import snapshot

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1000.0
GOOD = KeeperStatus(Health.FRESH, snapshot(1, begins=0, ends=3600), Bundle(), 1800)
OVER = replace(GOOD, health=Health.EXPIRED, snapshot=snapshot(2, begins=0, ends=999))
AWAY = Failure(FailureKind.NETWORK, "unavailable", "no answer")
BUSY = Failure(FailureKind.NETWORK, "review_unavailable", "not now")


@pytest.mark.parametrize(
    ("accepted", "unanswered", "said"),
    [
        ((), (), ()),
        ((GOOD,), (), ()),
        ((GOOD, OVER), (AWAY,), ()),
        ((), (AWAY,), ("nobody is served, and 1 wait for the CA: unavailable",)),
        ((), (AWAY, BUSY, AWAY), ("nobody is served, and 3 wait for the CA: review_unavailable, unavailable",)),
        ((OVER, OVER), (), ("none of 2 certificates is valid",)),
        (
            (OVER,),
            (AWAY,),
            ("none of 1 certificates is valid", "nobody is served, and 1 wait for the CA: unavailable"),
        ),
    ],
    ids=["nobody-came", "served", "one-is-served", "ca-away", "two-reasons", "expired", "expired-and-away"],
)
def test_ready_unless_there_is_somebody_to_serve_and_nobody_is(
    accepted: tuple[KeeperStatus, ...], unanswered: tuple[Failure, ...], said: tuple[str, ...]
) -> None:
    assert unready(accepted, unanswered, NOW) == said


def test_every_reason_has_a_status_and_a_word_of_its_own() -> None:
    assert set(_STATUS) == set(_CALLS) == set(Why)
    assert len(set(_CALLS.values())) == len(Why)


@pytest.mark.e2e
def test_tokens_by_phase_streams_turned_away_and_readiness_while_the_ca_comes_and_goes(
    short_dir: Path, tmp_path: Path
) -> None:
    port, nobody = free_ports(2)
    with ca_server.running(tmp_path) as ca:
        agent = NodeAgentProcess(short_dir, f"127.0.0.1:{nobody}", options=("--http", f"127.0.0.1:{port}"))
        agent.roots.write_bytes(ca.authority.root_pem)

        def tokens(phase: str) -> float:
            return numbers_in(page(port, "/metrics")[1]).of("tokens", phase=phase)

        token = ca.maker.token(now=time.time(), name="web")
        with agent:
            assert page(port, "/readyz") == (200, "ok\n"), "nobody has come"
            with Stream(agent.socket, with_token(token), "default"):
                wait_until(lambda: page(port, "/readyz")[0] == 503, "not ready: the CA is away, and nobody is served")
                assert page(port, "/readyz")[1].startswith("nobody is served, and 1 wait for the CA: ")
                assert (tokens("waiting"), tokens("serving"), tokens("reconnecting")) == (1, 0, 0)
                assert page(port, "/livez") == (200, "ok\n")
                numbers = numbers_in(page(port, "/metrics")[1])
                since = numbers.of("renewal_failing_since_timestamp_seconds", spiffe_id="", kind="network")
                assert time.time() - 60 < since < time.time(), "what newcomers meet, and since when"
                assert numbers.of("renewal_failures_total", spiffe_id="", kind="network") >= 1
        agent.ca_address = ca.server.address
        with agent, Stream(agent.socket, with_token(token), "default") as stream:
            stream.secrets()
            assert (tokens("waiting"), tokens("serving"), tokens("reconnecting")) == (0, 1, 0)
            ca.server.stop()
            other = ca.maker.token(now=time.time(), name="other")
            with Stream(agent.socket, with_token(other), "default"):
                wait_until(lambda: tokens("waiting") == 1, "one more waits")
                assert page(port, "/readyz") == (200, "ok\n"), "one is served"
