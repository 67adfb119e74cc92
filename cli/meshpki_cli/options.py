"""Options that several commands share, written once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from meshpki_cli import failures
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


def command_for(words: str, state_dir: Path | str) -> str:
    """A command line to type for that installation; without the directory where it is the default one."""
    import shlex

    named = f" --state-dir {shlex.quote(str(state_dir))}" if Path(state_dir) != default_state_dir() else ""
    return f"meshpki {words}{named}"


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
        readable=False,  # whether it is, and whose, is for us to say
        help="Where the journal, keys and logs of this installation live, by default $XDG_STATE_HOME/meshpki.",
    ),
]


def _level(ctx: typer.Context, param: typer.CallbackParam, value: str) -> str:
    """What was asked for here; else in detail if that was asked for before the command's name."""
    source = ctx.get_parameter_source(param.name) if param.name else None
    given = source is not None and source.name != "DEFAULT"
    return "debug" if failures.debugging() and not given else value


LogLevelOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--log-level",
        metavar="LEVEL",
        callback=_level,
        help="debug, info, warning or error; with `meshpki --debug` it is debug unless given here.",
    ),
]

YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

StrictPluginsOption: TypeAlias = Annotated[
    bool, typer.Option("--strict-plugins", help="Refuse to go on when any plugin is broken.")
]
