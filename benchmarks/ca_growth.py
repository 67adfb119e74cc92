"""Whether the 100,000th certificate costs what the first did, and what memory does meanwhile."""

from __future__ import annotations

from benchmarks.ca_wire import pair, server_cpu_us
from benchmarks.result import Result, Row, machine

STEP = 5000


def measure(total: int = 100_000) -> Result:
    """100,000 certificates from one server: CPU of the first and the last tenth, resident memory at both."""
    costs: list[float] = []
    resident: list[float] = []
    with pair("ca") as (ca, load):
        server_cpu_us(ca, load, 2000)
        for _ in range(total // STEP):
            costs.append(server_cpu_us(ca, load, STEP)["cpu_us"])
            resident.append(ca.ask("usage")["rss_kib"] / 1024)
    tenth = max(1, len(costs) // 10)
    first, last = costs[:tenth], costs[-tenth:]
    growth = Row.of("RATIO: last tenth / first tenth", "x", [sum(last) / sum(first)])
    return Result(
        name="ca_growth",
        what=measure.__doc__ or "",
        rows=(
            Row.of("first tenth", "us CPU", first),
            Row.of("all", "us CPU", costs),
            Row.of("last tenth", "us CPU", last),
            growth,
            Row.of("resident after the first tenth", "MiB", resident[tenth - 1 : tenth]),
            Row.of("resident at the end", "MiB", resident[-1:]),
        ),
        target="the last costs what the first did (within 10 %), memory within 10 %",
        met=growth.median <= 1.1 and resident[-1] <= resident[tenth - 1] * 1.1,
        machine=machine(),
    )
