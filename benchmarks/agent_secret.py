"""From a subscription to the secret on the wire, cached, against a gRPC server that answers with bytes."""

from __future__ import annotations

import os
import statistics

from benchmarks.agent_process import Agent, place, stage
from benchmarks.processes import SERVER_CORE, Helper
from benchmarks.result import Result, Row, machine

ANSWER_BYTES = 2600
"""About what an agent answers: a key, a leaf, an intermediate and a root as PEM."""


def measure(rounds: int = 9, times: int = 300) -> Result:
    """A new stream that names `default` and `ROOTCA`, to its first answer; the client's own time is in both."""
    found: dict[str, list[float]] = {}
    with stage() as (root, ca), Agent(place(root, "agent"), ca) as agent:
        os.sched_setaffinity(agent.process.pid, {sorted(os.sched_getaffinity(0))[SERVER_CORE]})
        bare = str(root / "bare.sock")
        with Helper("benchmarks.agent_bare", path=bare, size=ANSWER_BYTES), Helper("benchmarks.agent_load") as load:
            servers = {"agent": str(agent.socket), "bare": bare}
            for path in servers.values():
                load.ask("subscribe", path=path, times=100)
            for _ in range(rounds):
                for connection, share in (("stream", 1), ("connection", 5)):
                    for name, path in servers.items():
                        new = connection == "connection"
                        seconds = load.ask("subscribe", path=path, times=times // share, new_connections=new)["seconds"]
                        _keep(found, f"{name} {connection}", seconds)
    ratios = {
        connection: [
            a / b for a, b in zip(found[f"agent {connection} p50"], found[f"bare {connection} p50"], strict=True)
        ]
        for connection in ("stream", "connection")
    }
    return Result(
        name="agent_secret",
        what=measure.__doc__ or "",
        rows=(
            *(Row.of(f"{name}, p50", "ms", found[f"{key} p50"]) for key, name in _NAMES.items()),
            *(Row.of(f"{name}, p99", "ms", found[f"{key} p99"]) for key, name in _NAMES.items()),
            Row.of("ratio: agent / bare gRPC, a new stream", "x", ratios["stream"]),
            Row.of("ratio: agent / bare gRPC, a new connection", "x", ratios["connection"]),
        ),
        machine=machine(),
    )


_NAMES = {
    "agent stream": "agent, a new stream",
    "bare stream": "bare gRPC, a new stream",
    "agent connection": "agent, a new connection",
    "bare connection": "bare gRPC, a new connection",
}


def _keep(found: dict[str, list[float]], name: str, seconds: list[float]) -> None:
    cuts = statistics.quantiles(seconds, n=100)
    found.setdefault(f"{name} p50", []).append(cuts[49] * 1000)
    found.setdefault(f"{name} p99", []).append(cuts[98] * 1000)
