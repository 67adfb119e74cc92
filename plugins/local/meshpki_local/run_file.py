"""supervisor.json: what the supervisor says about itself and its children, for whoever asks from outside."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from meshpki.errors import MachineError
from meshpki.runtime.files import read_capped, write_atomically

_LIMIT: Final = 4 << 20
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """One child as it stood at the last change. `since` is epoch seconds; `pid` 0 means that none runs."""

    name: str
    phase: str
    pid: int
    start_ticks: int
    fingerprint: str
    since: int
    restarts: int
    failures: int
    reason: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """The supervisor, of which version, since when, and its children in their order."""

    pid: int
    start_ticks: int
    boot: str
    version: str
    since: int
    children: tuple[ChildRecord, ...] = ()
    problems: tuple[str, ...] = ()
    """What it could not do at its last try, in words; empty when all is well."""


def boot_id() -> str:
    """What tells this boot of the machine from every other: ticks since boot mean nothing in another."""
    return _BOOT_ID.read_text().strip() if _BOOT_ID.exists() else ""


def write(path: Path, record: RunRecord) -> None:
    """Replace the file. Raises MachineError."""
    write_atomically(path, json.dumps(asdict(record), indent=1).encode() + b"\n")


def read(path: Path) -> RunRecord | None:
    """What was written last; None when there is nothing, or nothing of this boot and form. Raises MachineError."""
    if not path.exists():
        return None
    import cattrs

    try:
        record = cattrs.structure(json.loads(read_capped(path, limit=_LIMIT)), RunRecord)
    except (ValueError, TypeError, cattrs.BaseValidationError):
        return None
    except MachineError:
        if not path.exists():
            return None
        raise
    return record if record.boot == boot_id() else None
