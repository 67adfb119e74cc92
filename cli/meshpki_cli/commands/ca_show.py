"""`meshpki ca show`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshpki.errors import ExitCode
from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki_cli.page import Page


def run(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Directory that `meshpki ca init` made.")],
    output: OutputOption = Output.TABLE,
) -> int:
    """Show the certificates of a CA: who, until when, which key, which digest. Reads no root key.

    Exit status 1 when there is something to worry about.
    """
    from meshpki.ca.material import describe

    found = describe(directory, time.time())

    def view(page: Page) -> None:
        from meshpki_cli.ca_view import show_material

        show_material(page, found)

    emit(output, {"ca": found, "warnings": found.warnings}, view)
    return ExitCode.ERROR if found.warnings else ExitCode.DONE
