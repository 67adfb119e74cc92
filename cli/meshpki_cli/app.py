"""The `meshpki` program: the table of commands, two options of its own, and nothing heavy."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from meshpki_cli import failures, streams
from meshpki_cli.catalog import SECTIONS
from meshpki_cli.lazy import LazyGroup

if TYPE_CHECKING:
    from collections.abc import Sequence


class Root(LazyGroup):
    """The group of all commands; it also tells usage errors in the way in which every other error is told."""

    # Any: what Typer hands to a group's constructor and to `main` is its own affair and passed through.
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**{**attributes, "sections": SECTIONS})

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any) -> None:  # type: ignore[override]
        """Run one command line and leave by SystemExit with its status."""
        streams.tame()
        extra["standalone_mode"] = False
        given = sys.argv[1:] if args is None else args
        sys.exit(failures.parsed(lambda: super(Root, self).main(given, prog_name or "meshpki", **extra), given))


app = typer.Typer(
    cls=Root,
    rich_markup_mode=None,  # rich help costs more than all the rest of `--help` together (benchmarks/cli_startup)
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit status: 0 done, 1 error, 2 usage, 3 changes are pending or your word is needed, 130 interrupted.",
)


def _version(asked: bool) -> None:
    if asked:
        from meshpki import __version__

        typer.echo(f"meshpki {__version__}")
        raise typer.Exit


@app.callback()
def root(
    *,
    debug: Annotated[
        bool, typer.Option("--debug", envvar=failures.DEBUG_VARIABLE, help="Log in detail, and show tracebacks.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Workload identity for every kind of Kubernetes cluster: SPIFFE certificates against trustworthy tokens."""
    del version
    failures.set_debug(debug)


def main() -> None:
    """Run the program in a process that has settled its signals, or does not mind them: see `entry`."""
    app()
