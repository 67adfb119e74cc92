"""`python -m benchmarks [NAME ...] [--output json|table]`: measure, show, keep in benchmarks/results."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from benchmarks import ROOT
from benchmarks.result import show, write

if TYPE_CHECKING:
    from benchmarks.result import Result

NAMES = (
    "ca_wire",
    "ca_new_connections",
    "ca_growth",
    "review_storm",
    "cli_startup",
    "agent_secret",
    "agent_start",
    "agent_idle",
)


def main() -> int:
    """Run the benchmarks that were named, or all; 0 whatever they find: a number is no test."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(NAMES)} (all)")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    results: list[Result] = []
    for name in arguments.names or NAMES:
        sys.stderr.write(f"{name} ...\n")
        result: Result = importlib.import_module(f"benchmarks.{name}").measure()
        write(result, ROOT / "benchmarks" / "results")
        results.append(result)
        if arguments.output == "table":
            show(result)
    if arguments.output == "json":
        print(json.dumps([asdict(result) for result in results], indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
