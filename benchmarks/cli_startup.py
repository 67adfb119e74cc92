"""`meshpki --help` against the help of an empty Typer program."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

from benchmarks.result import Result, Row, machine

EMPTY = """
import typer
app = typer.Typer()
@app.command()
def run() -> None:
    "Nothing."
app(["--help"])
"""
TARGET = 1.5


def cpu_ms(arguments: list[str]) -> float:
    """CPU milliseconds of a process, from its start to its end."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "TERM": "dumb", "COLUMNS": "100"}
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def measure(rounds: int = 15) -> Result:
    """CPU of a process that prints help, interleaved."""
    ours, empty, python = [], [], []
    for _ in range(rounds):
        ours.append(cpu_ms(["-m", "meshpki_cli", "--help"]))
        empty.append(cpu_ms(["-c", EMPTY]))
        python.append(cpu_ms(["-c", "pass"]))
    ratio = Row.of("RATIO: meshpki / empty Typer", "x", [a / b for a, b in zip(ours, empty, strict=True)])
    return Result(
        name="cli_startup",
        what=measure.__doc__ or "",
        rows=(
            Row.of("python", "ms CPU", python),
            Row.of("empty Typer program, --help", "ms CPU", empty),
            Row.of("meshpki --help", "ms CPU", ours),
            ratio,
        ),
        target=f"at most {TARGET} times an empty Typer program",
        met=ratio.median <= TARGET,
        machine=machine(),
    )
