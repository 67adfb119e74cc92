"""From the start of an agent to its socket ready, against a Python that imports grpc and cryptography and ends."""

from __future__ import annotations

import compileall
import subprocess
import sys
import time

from benchmarks import ROOT
from benchmarks.agent_process import Agent, place, stage
from benchmarks.result import Result, Row, machine

IMPORTS = "import grpc, cryptography.x509, cryptography.hazmat.primitives.asymmetric.ec"
TARGET = 2.0


def measure(rounds: int = 15) -> Result:
    """Wall time of `meshpki agent run` until somebody can connect; in pod mode the CA has answered by then."""
    for room in ("core", "cli"):  # as an installation does; else the times are those of the compiler
        compileall.compile_dir(ROOT / room, quiet=1)
    found: dict[str, list[float]] = {"python": [], "imports": [], "node": [], "pod": [], "cached": []}
    with stage() as (root, ca):
        cache = ("--cache", str(root / "cache"))
        _start(Agent(place(root, "first"), ca, *cache))
        for number in range(rounds):
            found["python"].append(_run("pass"))
            found["imports"].append(_run(IMPORTS))
            found["node"].append(_start(Agent(place(root, f"n{number}"), ca, node=True)))
            found["pod"].append(_start(Agent(place(root, f"p{number}"), ca)))
            found["cached"].append(_start(Agent(place(root, f"c{number}"), ca, *cache)))
    ratios = {
        name: Row.of(f"ratio: {words} / imports alone", "x", _ratios(found[name], found["imports"]))
        for name, words in (("node", "node mode"), ("pod", "pod mode"), ("cached", "pod mode from its cache"))
    }
    return Result(
        name="agent_start",
        what=measure.__doc__ or "",
        rows=(
            Row.of("python", "ms", found["python"]),
            Row.of("python that imports grpc and cryptography", "ms", found["imports"]),
            Row.of("node mode, socket ready", "ms", found["node"]),
            Row.of("pod mode, first certificate obtained and socket ready", "ms", found["pod"]),
            Row.of("pod mode with a cache, socket ready", "ms", found["cached"]),
            *ratios.values(),
        ),
        target=f"each at most {TARGET} times of the imports alone",
        met=all(ratio.median <= TARGET for ratio in ratios.values()),
        machine=machine(),
    )


def _run(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return (time.perf_counter() - began) * 1000


def _start(agent: Agent) -> float:
    began = time.perf_counter()
    with agent:
        return (time.perf_counter() - began) * 1000


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [a / b for a, b in zip(ours, theirs, strict=True)]
