"""What a benchmark found: numbers with units, shown as a table and kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Row:
    """One number: the median of its rounds, and the least and greatest of them."""

    name: str
    unit: str
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float]) -> Row:
        return cls(name, unit, statistics.median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Result:
    """A benchmark's outcome; `target` and `verdict` are empty where nothing was promised."""

    name: str
    what: str
    rows: tuple[Row, ...]
    target: str = ""
    met: bool | None = None
    notes: tuple[str, ...] = ()
    machine: dict[str, str] = field(default_factory=dict)


def machine() -> dict[str, str]:
    """What the numbers depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
    return {
        "processor": model,
        "cores": str(os.cpu_count()),
        "kernel": platform.release(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("cryptography", "grpcio", "protobuf")},
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def write(result: Result, directory: Path) -> Path:
    """Keep the result as JSON."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{result.name}.json"
    path.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    return path


def show(result: Result) -> None:
    """Print the result as a table."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=110)
    table = Table(title=f"{result.name}: {result.what}", title_justify="left")
    table.add_column("what")
    for column in ("median", "least", "greatest"):
        table.add_column(column, justify="right")
    table.add_column("unit")
    for row in result.rows:
        table.add_row(row.name, f"{row.median:,.2f}", f"{row.low:,.2f}", f"{row.high:,.2f}", row.unit)
    console.print(table)
    for note in result.notes:
        console.print(f"  {note}")
    if result.target:
        verdict = {True: "met", False: "NOT met", None: ""}[result.met]
        console.print(f"  target: {result.target}: {verdict}\n")
