"""`meshpki ca init`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki.ca.description import MaterialDescription
    from meshpki_cli.page import Page


def run(
    directory: Annotated[Path, typer.Argument(metavar="DIRECTORY", help="Where to make it; new, or empty.")],
    trust_domain: Annotated[str, typer.Option(metavar="NAME", help="Trust domain to issue for, such as mesh.local.")],
    key_type: Annotated[
        Literal["ec-p256", "ec-p384", "rsa-2048", "rsa-3072", "rsa-4096"],
        typer.Option(metavar="KIND", help="Kind of both keys: ec-p256, ec-p384, rsa-2048, rsa-3072 or rsa-4096."),
    ] = "ec-p256",
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a root and an issuing certificate, with their keys, in a directory that is new or empty.

    All four files appear together or not at all. A CA of that trust domain that is there already stays as it is.
    """
    from meshpki.ca import material
    from meshpki.ca.keys import KeyKind
    from meshpki.identity import TrustDomain

    now = time.time()
    made = material.create(directory, trust_domain=TrustDomain(trust_domain), now=now, key_type=KeyKind(key_type))
    found = material.describe(directory, now)
    emit(output, {"made": made, "ca": found}, lambda page: _show(page, found, made=made))


def _show(page: Page, found: MaterialDescription, *, made: bool) -> None:
    from meshpki_cli.ca_view import show_material

    page.line(
        f"Made a CA in {found.directory}." if made else f"There is a CA in {found.directory}: nothing was changed."
    )
    page.blank()
    show_material(page, found)
