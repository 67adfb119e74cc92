"""What an agent says in its status.json, read with suspicion: the file may be old, cut or missing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.hooks import Health
from meshpki.runtime.files import read_capped

if TYPE_CHECKING:
    from pathlib import Path

_LIMIT: Final = 64 << 10


@dataclass(frozen=True, slots=True)
class AgentStatus:
    """`not_after` is epoch seconds, 0 without a certificate; `failure`: its last, and trouble with files, in words."""

    health: Health
    spiffe_id: str
    not_after: int
    failure: str
    written_at: float

    def at(self, now: float) -> Health:
        """Its health by our clock: an agent that hangs does not say that its certificate has expired meanwhile."""
        return Health.EXPIRED if 0 < self.not_after <= now else self.health


def parse(content: bytes, written_at: float) -> AgentStatus | None:
    """Read the file's bytes; None for anything that is no status."""
    try:
        # Any: JSON, which the conversions below check.
        said = json.loads(content)
        failure = said.get("last_failure") or {}
        words = [f"{failure['seen']} ({failure['reason']})"] if failure else []
        if trouble := (said.get("files") or {}).get("trouble"):
            words.append(str(trouble))
        health, not_after = Health(said["state"]), int(said["not_after"])
        return AgentStatus(health, str(said["spiffe_id"]), not_after, "; ".join(words), written_at)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def read(path: Path) -> AgentStatus | None:
    """Read the file; None when there is none that can be read."""
    try:
        return parse(read_capped(path, limit=_LIMIT), path.stat().st_mtime)
    except (MachineError, OSError):
        return None
