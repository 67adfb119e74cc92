"""Durations as people write and read them: `90s`, `30m`, `24h`, `7d`."""

from __future__ import annotations

import re
from typing import Final

import typer

UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_WRITTEN: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)


def parse_duration(text: str) -> int:
    """Read a duration as seconds. Raises typer.BadParameter, so that it serves as an option's parser."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration, wanted a number and a unit s, m, h or d, such as 24h")
    return int(found[1]) * UNITS[found[2]]


def show_duration(seconds: int) -> str:
    """Write seconds in the two largest units that count, such as `23h 59m`."""
    parts: list[tuple[int, str]] = []
    rest = max(seconds, 0)
    for unit, size in reversed(UNITS.items()):
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append((count, unit))
    return " ".join(f"{count}{unit}" for count, unit in parts[:2] if count) or "0s"
