"""CPU per certificate of a CA server over the wire, against its cryptography alone, interleaved in one run."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from typing import TYPE_CHECKING

from benchmarks.parts import Parts
from benchmarks.primitives import Primitives
from benchmarks.processes import Helper
from benchmarks.result import Result, Row, machine

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS, IN_FLIGHT = 4, 16
LIMITS = {"in_flight": 64, "threads": 16}
TARGET = 3.0
_LIMIT, _SERVER = "cryptography alone", "server, per certificate"


@contextlib.contextmanager
def pair(kind: str) -> Iterator[tuple[Helper, Helper]]:
    """A server and a load generator for it, each a process of its own on a core of its own."""
    with (
        Helper("benchmarks.ca_helper", kind=kind, **LIMITS) as server,
        Helper("benchmarks.load_helper", connections=CONNECTIONS, in_flight=IN_FLIGHT, **server.ready) as load,
    ):
        yield server, load


def server_cpu_us(server: Helper, load: Helper, calls: int, *, new_connections: bool = False) -> dict[str, float]:
    """CPU microseconds of the server process for one call, and how the load generator fared."""
    before = server.ask("usage")
    run = load.ask("run", calls=calls, new_connections=new_connections)
    after = server.ask("usage")
    cpu, system = ((after[name] - before[name]) / calls * 1e6 for name in ("cpu", "system"))
    return {**run, "cpu_us": cpu, "system_us": system, "rate": calls / run["seconds"]}


def measure(rounds: int = 25, calls: int = 1000) -> Result:
    """TLS, 4 connections, 16 calls in flight, P-256, RS256 token by JWKS, every token another one, audit on."""
    primitives, parts = Primitives(), Parts()
    each: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[float]] = defaultdict(list)
    with pair("ca") as (ca, ca_load), pair("echo") as (echo, echo_load):
        server_cpu_us(ca, ca_load, 1000)
        server_cpu_us(echo, echo_load, 1000)
        for _ in range(rounds):  # short ones, for the speed of a virtual machine changes within seconds
            limits, wrapping = primitives.round(300), primitives.wrapping(300)
            for name, value in [
                *((f"primitive: {name}", us) for name, us in limits.items()),
                *parts.round(150).items(),
            ]:
                each[name].append(value)
            wire, bare = server_cpu_us(ca, ca_load, calls), server_cpu_us(echo, echo_load, calls)
            limit = sum(limits.values())
            for name, value in (
                (_LIMIT, limit),
                (_SERVER, wire["cpu_us"]),
                ("of it in the kernel", wire["system_us"]),
                ("an echo of 2.5 kB by grpcio's server, same TLS", bare["cpu_us"]),
                ("rate", wire["rate"]),
                ("p50", wire["p50_ms"]),
                ("p99", wire["p99_ms"]),
                ("ratio", wire["cpu_us"] / limit),
                ("bare ratio", wire["cpu_us"] / (limit - wrapping)),
            ):
                found[name].append(value)
    return _result("ca_wire", measure.__doc__ or "", each, found)


def _quietest(server: list[float], limit: list[float]) -> list[float]:
    """Ratios of the least quarters of both: what neighbours on the same machine do only ever adds."""
    few = max(1, len(server) // 4)
    return [ours / least for ours, least in zip(sorted(server)[:few], sorted(limit)[:few], strict=True)]


def _result(name: str, what: str, each: dict[str, list[float]], found: dict[str, list[float]]) -> Result:
    ratio = Row.of("RATIO: server / cryptography alone", "x", found.pop("ratio"))
    bare = Row.of("  were a CSR a bare key and a signature", "x", found.pop("bare ratio"))
    quiet = Row.of("  in the quietest quarter of the rounds", "x", _quietest(found[_SERVER], found[_LIMIT]))
    ends = (
        ("rate", "certificates a second, load on the other core", "1/s"),
        ("p50", "latency p50", "ms"),
        ("p99", "latency p99", "ms"),
    )
    last = [Row.of(words, unit, found.pop(key)) for key, words, unit in ends]
    return Result(
        name=name,
        what=what,
        rows=(
            *(Row.of(words, "us CPU", values) for words, values in found.items()),
            ratio,
            quiet,
            bare,
            *last,
            *(Row.of(f"  alone: {words}", "us CPU", values) for words, values in each.items()),
        ),
        target=f"at most {TARGET} times cryptography alone",
        met=ratio.median <= TARGET,
        notes=(
            "Parts are loops of one step in a warm cache. The server judges the calls of a moment in a row, and",
            "works them off step by step, so that they cost little more there. What gRPC takes of a call, the",
            "network's system calls and the shared sync of the audit log come on top. The cryptography alone is",
            "what the library takes to verify a CSR in PEM, each with a key of its own, to verify RS256, and to",
            "sign. The echo is grpcio's own synchronous server, which hands each call from thread to thread:",
            "where it takes more than 120 us, the machine has a slow hour.",
        ),
        machine=machine(),
    )
