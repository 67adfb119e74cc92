"""`meshpki provision`."""

from __future__ import annotations

from typing import Annotated

import typer

from meshpki_cli.options import OutputOption, StateDirOption
from meshpki_cli.output import Output
from meshpki_cli.platform_options import PlatformCommand, chosen

COMMAND = PlatformCommand


def run(
    ctx: typer.Context,
    state_dir: StateDirOption,
    platform: Annotated[
        str,
        typer.Option(
            "--platform",
            metavar="NAME",
            help="What to provision; it may bring options of its own: --platform NAME --help.",
        ),
    ],
    output: OutputOption = Output.TABLE,
) -> int:
    "Do it."
    print(chosen(ctx).options, state_dir, platform)
    return 0
