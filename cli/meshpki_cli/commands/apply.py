"""`meshpki apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshpki_cli.options import OutputOption, YesOption
from meshpki_cli.output import Output


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan saved by `meshpki provision --plan-out FILE`.")],
    yes: YesOption = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """Apply a plan that was saved and reviewed: show it, ask, apply it, verify.

    Refused with exit status 3, and nothing changed, when what was found then is not what is found now; the differences
    are listed.
    """
    from meshpki import plugins
    from meshpki.provision import journal, plan, saved
    from meshpki_cli.provisioning import carry_out, prospect

    planned = plan.load(file)
    loaded = plugins.load()
    history = journal.read(Path(planned.state_dir))
    saved.still_valid(loaded, planned, history)
    return carry_out(prospect(loaded, planned, history), output, yes=yes, otherwise="once you agree with the plan")
