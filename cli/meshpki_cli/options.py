"""Options that several commands share, written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from meshpki_cli.output import Output

OutputOption: TypeAlias = Annotated[
    Output, typer.Option("--output", "-o", metavar="FORMAT", help="table for people; json or yaml for programs.")
]


def default_state_dir() -> Path:
    """`$XDG_STATE_HOME/meshpki`, by the XDG base directory specification."""
    home = os.environ.get("XDG_STATE_HOME", "")
    # The specification: a relative path there is to be ignored.
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "meshpki"


def _absolute(path: Path) -> Path:
    return path.absolute()


StateDirOption: TypeAlias = Annotated[
    Path,
    typer.Option(
        "--state-dir",
        envvar="MESHPKI_STATE_DIR",
        default_factory=default_state_dir,
        callback=_absolute,
        metavar="DIRECTORY",
        show_default=False,
        help="Where the journal, keys and logs of this installation live, by default $XDG_STATE_HOME/meshpki.",
    ),
]

LogLevelOption: TypeAlias = Annotated[
    str, typer.Option("--log-level", metavar="LEVEL", help="debug, info, warning or error.")
]

YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
