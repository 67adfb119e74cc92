"""Node mode, the machine's clock ten minutes ahead, ten minutes behind, and set while the agent runs."""

from __future__ import annotations

import contextlib
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from support import false_clock
from support.crowd import Orders, until
from support.false_clock import FalseClock
from support.node_crowd import NodeCa, Workload, agent_of, spiffe_id

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.node_agent import NodeAgentProcess

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.xdist_group("failures-node-clock"),
    pytest.mark.skipif(bool(false_clock.why_not()), reason=false_clock.why_not()),
]

TEN_MINUTES = 600.0
AHEAD, AHEAD_OF_ALL, BEHIND = "ahead", "ahead-of-all", "behind"
SET_AHEAD, SET_BACK, SET_BACK_AWAY = "set-ahead", "set-back", "set-back-away"
SHORT_TOKEN = "short-token"
BEGIN = {AHEAD: TEN_MINUTES, BEHIND: -TEN_MINUTES, SET_AHEAD: 0.0, SET_BACK: 0.0}
"""Agents by their clock at the start."""
WHERE = {
    AHEAD: AHEAD,
    AHEAD_OF_ALL: AHEAD,
    SHORT_TOKEN: AHEAD,
    BEHIND: BEHIND,
    SET_AHEAD: SET_AHEAD,
    SET_BACK: SET_BACK,
    SET_BACK_AWAY: SET_BACK,
}
"""Workloads, and the agent of each."""
LIVES = {AHEAD_OF_ALL: 300.0, SET_AHEAD: 1100.0, SET_BACK_AWAY: 30.0}
TOKENS = {SHORT_TOKEN: 300.0}


@dataclass
class Record:
    """What happened: by agent, and by workload."""

    agents: dict[str, NodeAgentProcess]
    workloads: dict[str, Workload]
    ca: NodeCa
    during: dict[str, dict[str, Any]] = field(default_factory=dict)  # Any: JSON, looked at in assertions
    endings: list[grpc.StatusCode] = field(default_factory=list)
    asked_again: float = 0.0
    """Seconds after the clock was set back."""

    def asked(self, name: str) -> int:
        return len(self.ca.taken.get(name, ()))


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    with tempfile.TemporaryDirectory(prefix="mpn-", dir="/tmp") as directory, contextlib.ExitStack() as stack:
        root = Path(directory)
        ca = stack.enter_context(NodeCa())
        ca.orders = {name: Orders(life=life) for name, life in LIVES.items()}
        clocks = {name: FalseClock(root / f"{name}.clock", seconds) for name, seconds in BEGIN.items()}
        agents = {name: agent_of(ca, root / name) for name in BEGIN}
        for name, agent in agents.items():
            agent.environment, agent.longest_sleep = clocks[name].environment, 1.0
            agent.launch()
            stack.callback(agent.stop)
        for agent in agents.values():
            until(agent.socket.is_socket, "a socket")
        workloads = {
            name: stack.enter_context(Workload(agents[where], name, token_seconds=TOKENS.get(name, 86_400)))
            for name, where in WHERE.items()
        }
        kept = Record(agents, workloads, ca)
        begun = [name for name in WHERE if name not in {AHEAD_OF_ALL, BEHIND, SHORT_TOKEN}]
        until(lambda: all(workloads[name].leaves for name in begun), "those that can begin")
        until(lambda: agents[AHEAD].failures() and agents[BEHIND].failures(), "two that cannot")
        until(lambda: workloads[SHORT_TOKEN].endings, "one whose token is over by this clock")
        kept.endings = list(workloads[SHORT_TOKEN].endings)
        ca.orders[SET_BACK_AWAY] = Orders(status=grpc.StatusCode.UNAVAILABLE)
        until(
            lambda: agents[SET_BACK].identity(spiffe_id(SET_BACK_AWAY)).get("state") == "overdue", "one that is overdue"
        )
        for name in WHERE:
            kept.during[name] = agents[WHERE[name]].identity(spiffe_id(name))
        failed, began = len(agents[SET_BACK].failures()), time.monotonic()
        clocks[SET_AHEAD].step(TEN_MINUTES)
        clocks[SET_BACK].step(-TEN_MINUTES)
        until(lambda: len(agents[SET_BACK].failures()) > failed + 1, "tried again, though it is due in ten minutes")
        kept.asked_again = time.monotonic() - began
        for name in (AHEAD, BEHIND, SET_BACK):
            clocks[name].step(0)
        ca.orders[SET_BACK_AWAY] = Orders(life=3600)
        until(lambda: all(one.leaves for one in workloads.values()), "a certificate for each")
        for name in (SET_AHEAD, SET_BACK_AWAY):
            until(lambda name=name: len(workloads[name].serials) > 1, "renewed")  # type: ignore[misc]
        yield kept


def test_ahead_a_long_life_is_served_and_renewed_by_what_is_left_of_it(record: Record) -> None:
    said = record.during[AHEAD]
    assert said["state"] == "fresh"
    assert len(record.workloads[AHEAD].serials) == 1
    left = said["not_after"] - (record.ca.taken[AHEAD][0].at + TEN_MINUTES)
    assert said["renew_at"] == pytest.approx(said["not_after"] - left / 2, abs=left * 0.05 + 30)


def test_ahead_of_a_short_life_both_clocks_are_told_and_nothing_useless_is_served(record: Record) -> None:
    agent, workload = record.agents[AHEAD], record.workloads[AHEAD_OF_ALL]
    assert set(agent.failures()) == {"answer/certificate_expired"}
    line = agent.faults()[0]
    assert "this machine's clock says" in line["seen"]
    assert line["todo"] == "compare the clocks"
    assert record.during[AHEAD_OF_ALL] == {}, "not accepted: nothing is told of it"
    assert workload.gaps == []
    assert len(workload.serials) == 1, "served once the clock was right"
    assert workload.endings == [], "the stream waited"


def test_ahead_of_a_tokens_end_its_stream_is_refused_and_served_once_the_clock_is_right(record: Record) -> None:
    assert set(record.endings) == {grpc.StatusCode.UNAUTHENTICATED}
    assert record.during[SHORT_TOKEN] == {}
    assert record.workloads[SHORT_TOKEN].gaps == []
    assert record.asked(SHORT_TOKEN) == 1, "the CA was not asked before"


def test_behind_the_cas_certificate_is_not_valid_yet_and_the_clock_is_suspected(record: Record) -> None:
    agent, workload = record.agents[BEHIND], record.workloads[BEHIND]
    assert set(agent.failures()) == {"network/unavailable"}
    line = agent.faults()[0]
    assert "not yet valid" in line["seen"]
    assert "clock" in line["todo"]
    assert len(workload.serials) == 1, "served once the clock was right"
    assert workload.endings == [], "the stream waited"


def test_set_ahead_it_renews_at_once_when_that_makes_it_due(record: Record) -> None:
    workload = record.workloads[SET_AHEAD]
    assert workload.gaps == []
    assert record.agents[SET_AHEAD].failures() == []
    assert record.asked(SET_AHEAD) == 2, "once, not in a loop"


def test_set_back_it_serves_on_and_asks_nobody(record: Record) -> None:
    assert record.workloads[SET_BACK].gaps == []
    assert record.asked(SET_BACK) == 1
    assert record.workloads[SET_BACK].endings == []


def test_set_back_while_overdue_it_does_not_wait_for_a_time_that_is_ten_minutes_off(record: Record) -> None:
    assert record.during[SET_BACK_AWAY]["state"] == "overdue"
    assert record.asked_again < TEN_MINUTES / 2
    assert all(gap.at >= gap.not_after for gap in record.workloads[SET_BACK_AWAY].gaps)


@pytest.mark.parametrize("name", BEGIN)
def test_nobody_restarted_anything(record: Record, name: str) -> None:
    agent = record.agents[name]
    assert agent.process is not None
    assert agent.process.poll() is None
    assert agent.tracebacks() == []
