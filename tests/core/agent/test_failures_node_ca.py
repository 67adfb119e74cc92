"""Node mode, the CA in every bad state: what the workloads of one agent notice, what is said, how it ends.

One run for the whole table, since all of it is waiting: four agents, four CAs, nineteen workloads.
Between any two things that have to come in an order there are seconds enough for a machine that stands still for some.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from support.agent_process import CANARY, fake_token
from support.crowd import Look, Orders, until
from support.node_agent import NodeAgentProcess, Stream
from support.node_crowd import NodeCa, Workload, agent_of, spiffe_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-node-ca")]

STATUSES = [status for status in grpc.StatusCode if status is not grpc.StatusCode.OK]
REFUSALS = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
SLOW, AWAY, AWAY_TOO_LONG = "slow", "away", "away-too-long"
LIFE, SHORT_LIFE = 36.0, 12.0
LATEST_RENEWAL = LIFE / 2 * 1.1


@dataclass
class Record:
    """What happened, by workload."""

    workloads: dict[str, Workload]
    agents: dict[str, NodeAgentProcess]
    cas: dict[str, NodeCa]
    during: dict[str, dict[str, Any]] = field(default_factory=dict)  # Any: JSON, looked at in assertions
    looks: dict[str, Look] = field(default_factory=dict)
    away_seconds: float = 0.0

    def said(self) -> dict[str, dict[str, Any]]:  # Any: as above
        """What the status files say now, by workload: of its fresh token, where there are two of them."""
        files = {id(agent): agent.status() for agent in self.agents.values()}
        identities = [one for status in files.values() for one in status.get("identities", ())]
        identities.sort(key=lambda one: bool(one["phase"] == "serving"))
        return {str(one["spiffe_id"]).rpartition("/")[2]: one for one in identities}

    def keep(self, names: Sequence[str]) -> None:
        """Keep what is said of them now, and what each gets that asks once more: all at once, while they last."""
        said = self.said()
        self.during |= {name: said[name] for name in names}
        with ThreadPoolExecutor(len(names)) as pool:
            self.looks |= dict(zip(names, pool.map(lambda name: self.workloads[name].look(), names), strict=True))

    def all_failed(self, names: Sequence[str]) -> bool:
        said = self.said()
        return all(said.get(name, {}).get("last_failure") for name in names)

    def all_in(self, names: Sequence[str], state: str) -> bool:
        said = self.said()
        return all(said.get(name, {}).get("state") == state for name in names)


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    """Healthy, then sick past the time of renewal, then healthy again; nobody helps but the CA getting well."""
    sick = [status.name for status in STATUSES]
    names = [*sick, SLOW, AWAY, AWAY_TOO_LONG]
    with tempfile.TemporaryDirectory(prefix="mpn-", dir="/tmp") as directory, ExitStack() as stack:
        lives = {"sick": LIFE, SLOW: LIFE, AWAY: LIFE, AWAY_TOO_LONG: SHORT_LIFE}
        cas = {name: stack.enter_context(NodeCa(life=life)) for name, life in lives.items()}
        options = dict.fromkeys(lives, ("--max-in-flight", "32")) | {SLOW: ("--ca-timeout", "3")}
        agents = {name: agent_of(cas[name], Path(directory) / name, *options[name]) for name in lives}
        for agent in agents.values():
            agent.launch()
            stack.callback(agent.stop)
        for agent in agents.values():
            until(agent.socket.is_socket, "a socket")
        whose = {name: "sick" if name in sick else name for name in names}
        workloads = {name: stack.enter_context(Workload(agents[whose[name]], name)) for name in names}
        kept = Record(
            workloads, {name: agents[whose[name]] for name in names}, {name: cas[whose[name]] for name in names}
        )
        until(lambda: all(one.leaves for one in workloads.values()), "a certificate for each")
        began = time.monotonic()
        cas["sick"].orders = {status.name: Orders(status=status) for status in STATUSES}
        cas[SLOW].orders = {SLOW: Orders(hangs=True)}  # for thirty seconds, or until it is well again
        cas[AWAY].stop()
        cas[AWAY_TOO_LONG].stop()
        until(lambda: kept.all_in([AWAY_TOO_LONG], "expired"), "the end of one")
        kept.keep([AWAY_TOO_LONG])
        until(lambda: kept.all_failed(names), "each has failed once")
        kept.keep([*sick, SLOW, AWAY])
        cas["sick"].orders = cas[SLOW].orders = {}
        cas[SLOW].released.set()
        for status in REFUSALS:
            workloads[status.name].rotate()
        until(lambda: time.monotonic() - began > LATEST_RENEWAL, "half a life is over")
        kept.away_seconds = time.monotonic() - began
        cas[AWAY].start()
        cas[AWAY_TOO_LONG].start()
        until(lambda: all(len(one.serials) > 1 for one in workloads.values()), "another certificate for each")
        until(lambda: kept.all_in(names, "fresh"), "each is fresh")
        yield kept


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: status.name)
def test_a_status_instead_of_a_renewal(record: Record, status: grpc.StatusCode) -> None:
    name, refused = status.name, status in REFUSALS
    said, workload = record.during[name], record.workloads[name]
    assert workload.gaps == []
    assert record.looks[name].valid, "who comes meanwhile with the same token is served"
    assert record.looks[name].serial == workload.serials[0]
    assert said["state"] == ("denied" if refused else "overdue")
    assert (said["last_failure"]["kind"], said["last_failure"]["reason"]) == (
        "verdict" if refused else "network",
        status.name.lower(),
    )
    if refused:
        assert said["phase"] == "reconnecting"
        assert set(workload.endings) == {grpc.StatusCode.OK}, "asked back for a fresh token"
    else:
        assert workload.endings == [], "the very stream of the beginning"


def test_the_log_says_of_each_status_whose_fault_it_was(record: Record) -> None:
    agent = record.agents[STATUSES[0].name]
    wanted = {f"{'verdict' if status in REFUSALS else 'network'}/{status.name.lower()}" for status in STATUSES}
    assert set(agent.failures()) == wanted
    assert all(line["seen"] and line["todo"] for line in agent.faults())
    for line in agent.faults():
        if "spiffe_id" in line:  # one with a fresh token has nothing yet by which the CA would have named it
            assert line["spiffe_id"] == spiffe_id(line["reason"].upper())
    assert {line["spiffe_id"] for line in agent.faults() if "spiffe_id" in line} == {
        spiffe_id(status.name) for status in STATUSES
    }


def test_a_slow_ca_is_given_up_at_the_time_that_was_given_and_asked_again(record: Record) -> None:
    workload, agent = record.workloads[SLOW], record.agents[SLOW]
    assert workload.gaps == []
    assert workload.endings == []
    assert record.during[SLOW]["state"] == "overdue"
    assert set(agent.failures()) == {"network/deadline_exceeded"}
    assert "too slow" in agent.faults()[0]["todo"]


def test_a_ca_away_for_longer_than_half_a_life_is_not_noticed_by_the_workload(record: Record) -> None:
    workload, agent = record.workloads[AWAY], record.agents[AWAY]
    assert record.away_seconds > LIFE / 2
    assert workload.gaps == []
    assert workload.endings == []
    assert record.looks[AWAY].valid
    assert record.during[AWAY]["state"] == "overdue"
    assert set(agent.failures()) == {"network/unavailable"}
    assert "running" in agent.faults()[0]["todo"]


def test_a_ca_away_for_longer_than_a_life_ends_in_expired_and_heals_by_itself(record: Record) -> None:
    workload, agent = record.workloads[AWAY_TOO_LONG], record.agents[AWAY_TOO_LONG]
    assert workload.gaps[0].serial != workload.serials[-1], "it did expire, and was followed by another"
    assert record.during[AWAY_TOO_LONG]["state"] == "expired"
    errors = [line["message"] for line in agent.lines() if line["level"] == "error"]
    assert errors == ["the certificate has expired, and there is no other: peers refuse it from now on"]
    assert workload.look().valid


BROKEN = {
    "missing": {},
    "empty": {"authorization": ""},
    "bearer-of-nothing": {"authorization": "Bearer "},
    "cut": {"authorization": "Bearer " + fake_token(expires_at=4e9, mark="cut").rpartition(".")[0]},
    "half": {"authorization": "Bearer " + fake_token(expires_at=4e9, mark="half")[:40]},
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_token_that_is_none_is_refused_at_once_and_the_ca_is_not_asked(record: Record, name: str) -> None:
    agent = record.agents[AWAY]
    with Stream(agent.socket, BROKEN[name], "default") as stream:
        with pytest.raises(grpc.RpcError) as caught:
            stream.secrets()
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert not {"cut", "half"} & set(record.cas[AWAY].taken)
    assert record.workloads[AWAY].look().valid, "nobody else notices"


def test_nobody_restarted_anything_and_no_token_is_in_a_log(record: Record) -> None:
    for agent in {id(one): one for one in record.agents.values()}.values():
        assert agent.process is not None
        assert agent.process.poll() is None
        assert agent.tracebacks() == []
        assert CANARY not in agent.log.read_text()
