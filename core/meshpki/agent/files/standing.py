"""How the files stand: until when what they hold is good, and why they do not hold what is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FilesStanding:
    """For readiness, metrics and the status file. Times are epoch seconds."""

    ends: int | None = None
    """When the certificate in the files expires; None while there is none of this workload."""
    trouble: str = ""
    """Why they could not be written when that was tried last; empty when they hold what is served."""
    failures: int = 0
    """Attempts to write them that failed, since the agent began."""
    untold: int = 0
    """Attempts to tell the program that reads them that failed."""


def not_written(standing: FilesStanding, now: float) -> tuple[str, ...]:
    """Say why the files hold no valid certificate; nothing when they do. An old one that is still valid will do."""
    why = f": {standing.trouble}" if standing.trouble else ""
    if standing.ends is None:
        return (f"there are no files yet{why}",)
    if now >= standing.ends:
        return (f"the certificate in the files expired {now - standing.ends:.0f} s ago{why}",)
    return ()


def fields(standing: FilesStanding) -> Mapping[str, object]:
    """Give what the status file says of them."""
    return {"not_after": standing.ends or 0, "trouble": standing.trouble}
