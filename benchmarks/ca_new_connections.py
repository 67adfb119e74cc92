"""A new TLS connection for every call, as a proxy that starts: CPU per certificate against cryptography alone."""

from __future__ import annotations

from collections import defaultdict

from benchmarks.ca_wire import pair, server_cpu_us
from benchmarks.primitives import Primitives
from benchmarks.result import Result, Row, machine


def measure(rounds: int = 5, calls: int = 600) -> Result:
    """TLS handshake (TLS 1.3, P-256 leaf) and one certificate on each connection, 16 at a time."""
    primitives = Primitives()
    found: dict[str, list[float]] = defaultdict(list)
    with pair("ca") as (ca, ca_load), pair("echo") as (echo, echo_load):
        server_cpu_us(ca, ca_load, 200, new_connections=True)
        server_cpu_us(echo, echo_load, 200, new_connections=True)
        for _ in range(rounds):
            limit = sum(primitives.round(1000).values())
            wire = server_cpu_us(ca, ca_load, calls, new_connections=True)
            bare = server_cpu_us(echo, echo_load, calls, new_connections=True)
            for name, value in (
                ("cryptography alone, without a handshake", limit),
                ("server, per connection and certificate", wire["cpu_us"]),
                ("a gRPC echo on a new connection", bare["cpu_us"]),
            ):
                found[name].append(value)
            found["ratio"].append(wire["cpu_us"] / limit)
            found["rate"].append(wire["rate"])
    ratio, rate = found.pop("ratio"), found.pop("rate")
    return Result(
        name="ca_new_connections",
        what=measure.__doc__ or "",
        rows=(
            *(Row.of(name, "us CPU", values) for name, values in found.items()),
            Row.of("RATIO: server / cryptography alone", "x", ratio),
            Row.of("connections and certificates a second", "1/s", rate),
        ),
        machine=machine(),
    )
