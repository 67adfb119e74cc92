"""`meshpki apply`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshpki_cli.options import OutputOption, StrictPluginsOption, YesOption
from meshpki_cli.output import Output


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A plan saved by `meshpki provision --plan-out FILE`.")],
    yes: YesOption = False,
    strict_plugins: StrictPluginsOption = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """Apply a plan that was saved and reviewed: show it, ask, apply it, verify.

    Refused with exit status 3, and nothing changed, when what was found then is not what is found now, or when another
    run has changed what stood then; the differences are listed.
    """
    from meshpki import plugins
    from meshpki.provision import journal, saved
    from meshpki_cli.provisioning import carry_out, prospect

    loaded, reviewed = plugins.load(strict=strict_plugins), saved.load(file)
    history = journal.read(Path(reviewed.plan.state_dir))
    saved.still_valid(loaded, reviewed, history)
    ahead = prospect(loaded, reviewed.plan, history)
    return carry_out(ahead, output, yes=yes, otherwise="once you agree with the plan")
