"""What an agent costs while nothing happens: memory, CPU and wake-ups, for one workload and for a node's thousand."""

from __future__ import annotations

import contextlib
import os
import time

from benchmarks.agent_process import Agent, Cost, cost_of, place, stage
from benchmarks.processes import SERVER_CORE, Helper
from benchmarks.result import Result, Row, machine

SIZES = (0, 10, 100, 1000)
ANSWER_BYTES = 2600
TARGET_KIB = 64
SETTLE_SECONDS = 10.0
"""Until the last workload's roots have been told to the CA: that is spread over five seconds."""
WATCH_SECONDS = 35.0
"""Longer than the longest sleep of anything in an agent, which is half a minute."""


def measure(rounds: int = 2) -> Result:
    """Pod mode with one workload, node mode with 0 to 1,000, each with two connections and streams, as an Envoy's.

    An Envoy opens a stream for each secret, and says with the first message of each who it is, in 60 KB. In node mode,
    where it shows a token, it makes a connection for each stream as well. Beside it node mode for clients that ask for
    both secrets on one stream. And for both, to compare, a bare server of grpcio with as many connections and streams,
    which does nothing else: what an agent on that library could not go below (ADR 0022).
    """
    with contextlib.ExitStack() as stack:
        watched = _watched(stack, rounds)
    pss = {name: [float(after[name].pss_kib) for _, after in watched] for name in watched[0][0]}
    minutes = {name: [_per_minute(before[name], after[name]) for before, after in watched] for name in pss}
    further = _each(pss["1000"], pss["100"])
    grpcio = _each(pss["bare 1000"], pss["bare 100"])
    single = _each(pss["1000 together"], pss["100 together"])
    single_grpcio = _each(pss["bare 1000 together"], pss["bare 100 together"])
    total = Row.of("each further workload, memory", "KiB PSS", further)
    return Result(
        name="agent_idle",
        what=(measure.__doc__ or "").partition("\n")[0],
        rows=(
            *(Row.of(f"{_words(name)}, memory", "KiB PSS", values) for name, values in pss.items()),
            *(Row.of(f"{_words(name)}, CPU", "ms/minute", [cpu for cpu, _ in minutes[name]]) for name in minutes),
            *(
                Row.of(f"{_words(name)}, event loop woken", "1/minute", [woken for _, woken in minutes[name]])
                for name in minutes
            ),
            total,
            Row.of("to compare: grpcio's two connections with a stream each, and nothing else", "KiB PSS", grpcio),
            Row.of("each further workload with one stream for both secrets, memory", "KiB PSS", single),
            Row.of("to compare: grpcio's one connection with a stream, and nothing else", "KiB PSS", single_grpcio),
            Row.of(
                "each further workload, CPU",
                "ms/minute",
                _each(*([cpu for cpu, _ in minutes[size]] for size in ("1000", "100"))),
            ),
        ),
        target=f"each further workload at most {TARGET_KIB} KiB",
        met=total.median <= TARGET_KIB,
        notes=(
            "Each further workload: the difference between 100 and 1,000, by 900.",
            "PSS counts a page shared by n processes as a part of n; all agents here share their libraries.",
            "The agent's socket is our own HTTP/2 over h2: grpcio alone would take more than the target.",
        ),
        machine=machine(),
    )


def _watched(stack: contextlib.ExitStack, rounds: int) -> list[tuple[dict[str, Cost], dict[str, Cost]]]:
    """Start all, let all be used, and look at all of them before and after each round: they are disturbed alike."""
    root, ca = stack.enter_context(stage())
    load = stack.enter_context(Helper("benchmarks.agent_load"))
    agents = {"pod": stack.enter_context(Agent(place(root, "pod"), ca))}
    agents |= {str(size): stack.enter_context(Agent(place(root, str(size)), ca, node=True)) for size in SIZES}
    sockets = {name: (agent.socket, 1 if name == "pod" else int(name)) for name, agent in agents.items()}
    pids = {name: agent.process.pid for name, agent in agents.items()}
    for name, size in ((f"bare {size}{how}", size) for size in (100, 1000) for how in ("", " together")):
        path = root / f"{name.replace(' ', '-')}.sock"
        bare = stack.enter_context(Helper("benchmarks.agent_bare", path=str(path), size=ANSWER_BYTES))
        pids[name], sockets[name] = bare.ready["pid"], (path, size)
    for size in (100, 1000):
        name = f"{size} together"
        agent = stack.enter_context(Agent(place(root, f"together-{size}"), ca, node=True))
        pids[name], sockets[name] = agent.process.pid, (agent.socket, size)
    core = sorted(os.sched_getaffinity(0))[SERVER_CORE]
    for pid in pids.values():
        os.sched_setaffinity(pid, {core})
    for name, (path, count) in sockets.items():
        shape = "pod" if name == "pod" else "together" if name.endswith("together") else "node"
        load.ask("hold", path=str(path), first=0, count=count, shape=shape)
    time.sleep(SETTLE_SECONDS)
    found = []
    for _ in range(rounds):
        before = {name: cost_of(pid) for name, pid in pids.items()}
        time.sleep(WATCH_SECONDS)
        found.append((before, {name: cost_of(pid) for name, pid in pids.items()}))
    return found


def _per_minute(before: Cost, after: Cost) -> tuple[float, float]:
    minutes = (after.at - before.at) / 60
    return (after.cpu_seconds - before.cpu_seconds) * 1000 / minutes, (after.wakes - before.wakes) / minutes


def _each(large: list[float], small: list[float]) -> list[float]:
    return [(a - b) / 900 for a, b in zip(large, small, strict=True)]


def _words(name: str) -> str:
    streams = " with one stream" if name.endswith("together") else ""
    if name.startswith("bare"):
        return f"bare grpcio, {int(name.split()[1]):,} workloads{streams}"
    if streams:
        return f"node mode, {int(name.split(maxsplit=1)[0]):,} workloads{streams}"
    return "pod mode" if name == "pod" else f"node mode, {int(name):,} workloads"
