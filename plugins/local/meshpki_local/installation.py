"""local.json: what the supervisor of this installation is to run, read and written as one record."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError, MeshpkiError
from meshpki.runtime.files import read_capped
from meshpki_local.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Value

VERSION: Final = 1
_LIMIT: Final = 1 << 20
_NAMES: Final = frozenset(Settings().params()) - {"ca_port"} | {"version"}


def render(settings: Settings) -> bytes:
    """The file's bytes. The port is not in it: ca.yaml, which the CA reads, is the only place that says it."""
    record: dict[str, Value] = {"version": VERSION, **settings.params()}
    del record["ca_port"]
    return json.dumps(record, indent=2).encode() + b"\n"


def parse(content: bytes) -> Settings:
    """Read `render` back. Raises MachineError for anything else: nobody but us writes this file."""
    try:
        # Any: JSON, until each member is checked by Settings.from_params.
        record = json.loads(content)
        if not isinstance(record, dict) or frozenset(record) != _NAMES or record.pop("version") != VERSION:
            raise ValueError("not our members, or not our version")  # noqa: TRY301 - one way out for all that is wrong
        if not all(isinstance(text, str) for text in record["workloads"]):
            raise ValueError("workloads are no texts")  # noqa: TRY301
        return Settings.from_params({**record, "ca_port": 0, "workloads": tuple(record["workloads"])})
    except (ValueError, TypeError, RecursionError, MeshpkiError) as error:
        raise MachineError(
            f"local.json is not as this version writes it: {error}",
            todo="move it away, then provision again, with your options",
        ) from error


def read(path: Path) -> Settings | None:
    """The settings installed at `path`; None when there are none. Raises MachineError."""
    try:
        path.lstat()
    except FileNotFoundError:
        return None
    except OSError:
        pass  # read_capped says why
    return parse(read_capped(path, limit=_LIMIT))
