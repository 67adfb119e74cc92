"""`meshpki ca show`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshpki.errors import ExitCode, UsageError
from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki.ca.description import MaterialDescription
    from meshpki_cli.page import Page


def run(
    directory: Annotated[
        Path | None, typer.Argument(metavar="DIRECTORY", help="Directory that `meshpki ca init` made.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Show the one that this configuration of a CA server names.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> int:
    """Show the certificates of a CA: who, until when, which key, which digest. Reads no root key.

    Exit status 1 when there is something to worry about.
    """
    found = _examine(directory, config)

    def view(page: Page) -> None:
        from meshpki_cli.ca_view import show_material

        show_material(page, found)

    emit(output, {"ca": found, "warnings": found.warnings}, view)
    return ExitCode.ERROR if found.warnings else ExitCode.DONE


def _examine(directory: Path | None, config: Path | None) -> MaterialDescription:
    from meshpki.ca import material

    if (directory is None) == (config is None):
        raise UsageError("no CA was named, or two", wanted="either a DIRECTORY or --config FILE")
    if directory is not None:
        return material.describe(directory, time.time())
    assert config is not None
    from meshpki.ca.config import load
    from meshpki.ca.signer import SoftwareSigner

    files = load(config).issuer
    signer = SoftwareSigner.load(files.certificate, files.key, files.root)
    return material.describe_signer(signer, files.certificate.parent, time.time())
