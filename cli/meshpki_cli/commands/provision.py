"""`meshpki provision`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshpki.errors import UsageError
from meshpki.hooks import Mode
from meshpki_cli import failures
from meshpki_cli.options import OutputOption, StateDirOption, StrictPluginsOption, YesOption
from meshpki_cli.output import Output
from meshpki_cli.platform_options import PlatformCommand, chosen

if TYPE_CHECKING:
    from meshpki_cli.platform_options import Chosen
    from meshpki_cli.provisioning import Prospect

COMMAND = PlatformCommand


def run(
    ctx: typer.Context,
    platform: Annotated[
        str, typer.Option(metavar="NAME", help="What to provision; `--platform NAME --help` shows its own options.")
    ],
    state_dir: StateDirOption,
    *,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan; exit 3 if it would change anything.")
    ] = False,
    plan_out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save the plan for `meshpki apply FILE`, and stop there; exit 3 if it would change anything.",
        ),
    ] = None,
    fallback: Annotated[
        Mode | None,
        typer.Option(
            metavar="MODE", help="Your word to go down to this mode: sds or file-mount. It is kept and shown."
        ),
    ] = None,
    yes: YesOption = False,
    strict_plugins: StrictPluginsOption = False,
    output: OutputOption = Output.TABLE,
) -> int:
    """Find out what a platform can do, show the plan, ask, apply it, verify, and say what to do next.

    A second run changes nothing and says so. A run that was broken off is gone on with by the same command. Where there
    is no terminal to ask on, --yes is needed; else the exit status is 3 and nothing is changed.
    """
    del platform, strict_plugins  # read by PlatformCommand, which has to know them before the rest
    from meshpki_cli.provisioning import carry_out, show_only

    if yes and (dry_run or plan_out):
        raise UsageError("--yes with --dry-run or --plan-out", wanted="your word to apply, or a look at the plan")
    ahead = _look(chosen(ctx), state_dir, fallback)
    if plan_out is not None:
        from meshpki.provision import saved

        saved.save(saved.SavedPlan(ahead.plan, ahead.base), plan_out.absolute())
        if not failures.heard_by_a_program():
            typer.echo(f"plan saved; apply it with: meshpki apply {shlex.quote(str(plan_out))}", err=True)
    if dry_run or plan_out is not None:
        return show_only(ahead, output)
    return carry_out(ahead, output, yes=yes, otherwise="or save the plan with --plan-out FILE, to be reviewed first")


def _look(asked: Chosen, state_dir: Path, fallback: Mode | None) -> Prospect:
    from meshpki.provision import facts, journal, plan, saved
    from meshpki_cli.provisioning import prospect

    name = asked.platform.name
    history = journal.read(state_dir)
    made = saved.unfinished(asked.plugins, name, asked.options, history) if fallback is None else None
    if made is None:
        found = facts.detect(asked.plugins, name, state_dir, asked.options)
        made = plan.make_plan(asked.plugins, found, state_dir, word=fallback, history=history)
    return prospect(asked.plugins, made, history)
