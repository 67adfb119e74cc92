"""Options that several commands share, written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from meshpki_cli.output import Output

OutputOption: TypeAlias = Annotated[
    Output, typer.Option("--output", "-o", help="table for people, json or yaml for programs.", show_default=True)
]


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/meshpki`, by the XDG base directory specification."""
    home = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path there is to be ignored.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "meshpki"


StateDirOption: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="MESHPKI_STATE_DIR",
        default_factory=default_state_dir,
        show_default="$XDG_STATE_HOME/meshpki",
        help="Where the journal, keys and logs of this installation live.",
    ),
]
