"""Node mode, the machine itself fails: suspended, disk full. Nobody restarts the agent. Open files: see their file."""

from __future__ import annotations

import os
import resource
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.crowd import until
from support.node_agent import NodeAgentProcess
from support.node_crowd import NodeCa, Workload, agent_of, spiffe_id

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-node-machine")]


def test_suspended_past_a_renewal_and_past_the_end(short_dir: Path) -> None:
    """A stopped process is what a suspended machine is to the agent: afterwards everything is late at once."""
    with NodeCa(life=20) as ca, ExitStack() as stack:
        agents = {name: stack.enter_context(agent_of(ca, short_dir / name)) for name in ("short", "long")}
        workloads = {name: stack.enter_context(Workload(agent, name)) for name, agent in agents.items()}
        until(lambda: all(one.leaves for one in workloads.values()), "a certificate for each")
        ends = {name: one.leaves[0][1].not_valid_after_utc.timestamp() for name, one in workloads.items()}
        woken: dict[str, float] = {}
        for agent in agents.values():
            assert agent.process is not None
            os.kill(agent.process.pid, signal.SIGSTOP)
        for name, moment in (("short", ends["short"] - 6), ("long", ends["long"] + 0.5)):
            time.sleep(max(0.0, moment - time.time()))  # the suspension itself, not a hope
            process = agents[name].process
            assert process is not None
            os.kill(process.pid, signal.SIGCONT)
            woken[name] = time.time()
        until(lambda: all(len(one.serials) > 1 for one in workloads.values()), "a certificate on each stream")
        until(lambda: all(is_fresh(agents[name], name) for name in agents), "fresh")
        for name, one in workloads.items():
            when = next(when for when, leaf in one.leaves if leaf.serial_number == one.serials[1])
            assert when - woken[name] < 20, "sooner than at the look at the clock that comes every thirty seconds"
            assert one.endings == [], "the stream of before"
            assert agents[name].failures() == []
            assert agents[name].tracebacks() == []


def test_a_full_disk_stops_status_and_cache_but_no_certificate(short_dir: Path) -> None:
    """No file may grow: every write to one fails, as on a full disk. The log is one of them."""
    cache = short_dir / "cache"
    with NodeCa(life=16) as ca, ExitStack() as stack:
        agent = stack.enter_context(agent_of(ca, short_dir / "n", "--cache", str(cache)))
        assert agent.process is not None
        pid = agent.process.pid
        one = stack.enter_context(Workload(agent, "one"))
        until(lambda: agent.identity(spiffe_id("one")) and list(cache.glob("*.json")), "status and cache")
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        seen = len(one.serials)
        until(lambda: len(one.serials) > seen, "a certificate: what was being written before has been")
        frozen = agent.status()
        until(lambda: len(one.serials) > seen + 1, "certificates go on")
        newcomer = stack.enter_context(Workload(agent, "newcomer"))
        until(lambda: newcomer.leaves, "somebody new is served")
        assert agent.status() == frozen, "an old status, but a whole one"
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ca.life = 3600  # the next one is the last
        until(lambda: all(lasts(each) for each in (one, newcomer)), "the last renewal")
        until(lambda: says(agent, one) and says(agent, newcomer), "the status says what is served")
        assert one.gaps == newcomer.gaps == []
        assert one.endings == newcomer.endings == []
        until(lambda: not list(short_dir.rglob("*.new")), "nothing half written")
        assert agent.tracebacks() == []
        assert agent.stop() == 0
        ca.stop()
        kept = one.serials[-1]
        with agent_of(ca, short_dir / "n", "--cache", str(cache)) as again:
            assert one.look().serial == kept, "kept as soon as there was room"
            until(lambda: again.identity(spiffe_id("one")), "the status")
            assert again.identity(spiffe_id("one"))["from_cache"] is True


def is_fresh(agent: NodeAgentProcess, name: str) -> bool:
    return bool(agent.identity(spiffe_id(name)).get("state") == "fresh")


def lasts(workload: Workload) -> bool:
    return workload.leaves[-1][1].not_valid_after_utc.timestamp() - time.time() > 1000


def says(agent: NodeAgentProcess, workload: Workload) -> bool:
    return bool(agent.identity(spiffe_id(workload.name)).get("serial") == f"{workload.serials[-1]:x}")
