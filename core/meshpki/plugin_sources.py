"""Where plugins come from: the entry points of what is installed, each distribution's metadata read for itself."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from importlib.metadata import EntryPoint

MAX_REASON: Final = 300


class Origin(NamedTuple):
    """A distribution."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def installed(group: str) -> tuple[Iterable[EntryPoint], Mapping[Origin, str]]:
    """The entry points of that group, and the distributions whose own cannot be read, each with the reason.

    The library reads all or raises: one file in the wrong encoding would hide every plugin, ours too.
    """
    from importlib import metadata

    with contextlib.suppress(Exception):  # what was wrong is found out below
        return metadata.entry_points(group=group), {}
    found: dict[str, Iterable[EntryPoint]] = {}
    unread: dict[Origin, str] = {}
    for distribution in metadata.distributions():
        name = str(distribution.name)
        if name in found:
            continue  # the first on the path counts
        try:
            found[name] = distribution.entry_points.select(group=group)
        except Exception as error:  # noqa: BLE001 - it reads a stranger's file
            unread[Origin(name, str(distribution.version))] = f"its entry_points.txt cannot be read: {one_line(error)}"
    return [entry for entries in found.values() for entry in entries], unread


def origin_of(claim: EntryPoint) -> str:
    """The distribution that brings it, for people."""
    if claim.dist is None or not claim.dist.name:
        return f"(no distribution) {claim.value}"
    return str(Origin(claim.dist.name, claim.dist.version))


def one_line(error: BaseException) -> str:
    """What an error of a plugin says, if it says anything: it may be broken as well."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - its own code runs there
        text = ""
    return cut(f"{type(error).__name__}: {text}" if text else type(error).__name__)


def cut(text: str) -> str:
    """One line of it, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON else line[: MAX_REASON - 1] + "…"
