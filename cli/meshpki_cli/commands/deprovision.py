"""`meshpki deprovision`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from meshpki_cli import consent, progress
from meshpki_cli.failures import InterruptedRun
from meshpki_cli.options import OutputOption, StateDirOption, StrictPluginsOption, YesOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from meshpki.hooks import ComponentStatus
    from meshpki.plugins import PluginSet
    from meshpki.provision.base import Base
    from meshpki.provision.engine import Report
    from meshpki.provision.journal import History
    from meshpki_cli.page import Page

SHOWN: Final = 10
"""So many of the files that are left are named to people; programs get all that were met."""


def run(
    state_dir: StateDirOption,
    yes: YesOption = False,
    strict_plugins: StrictPluginsOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Remove all that provision made, and nothing else. Shows what that is, and asks.

    What was there before comes back, what meshpki did not make stays. Broken off, the same command goes on.
    """
    from meshpki import plugins
    from meshpki.provision import journal
    from meshpki.provision.base import Base

    loaded = plugins.load(strict=strict_plugins)
    history = journal.read(state_dir)
    unknown = () if history.made else _running(loaded, history)
    if history.made:
        if output is Output.TABLE or sys.stderr.isatty():
            _announce(history, state_dir)
        consent.obtain("Remove all of this?", yes=yes, otherwise="once you agree with what will be removed")
    try:
        report = _remove(loaded, state_dir, Base.of(history))
        document = {"state_dir": str(state_dir), "removed": report.results, "left": report.left, "running": unknown}
        emit(output, document, lambda page: _show(page, report, unknown, state_dir))
    except KeyboardInterrupt as error:
        from meshpki_cli.provisioning import at_an_edge

        raise at_an_edge("deprovision", state_dir) from error


def _announce(history: History, state_dir: Path) -> None:
    """On stderr: it is there to be agreed to, the result follows on stdout."""
    from meshpki_cli.page import BAD, Cell, Page

    page = Page(sys.stderr)
    meant = {change.id: change.undo for change in history.plan.changes} if history.plan else {}
    page.title(f"To be removed from {state_dir}")
    for item in reversed(history.made):
        page.item("-", Cell(f"{item.title} ({item.id})", BAD), indent=2)
        page.pairs([("undo", meant.get(item.id, ""))], indent=4)


def _remove(loaded: PluginSet, state_dir: Path, shown: Base) -> Report:
    from meshpki.provision import engine

    try:
        with progress.reported() as told:
            return engine.deprovision(loaded, state_dir, base=shown, progress=told)
    except engine.InterruptedRunError as error:
        raise InterruptedRun(error.seen.removeprefix("interrupted "), error.todo) from error


def _running(loaded: PluginSet, history: History) -> tuple[ComponentStatus, ...]:
    """What runs of an installation of which no journal says that we made it, as when that was lost."""
    from meshpki.errors import MeshpkiError
    from meshpki.hooks import Health
    from meshpki.plugins import isolated
    from meshpki.provision.status import probe_of

    if history.plan is None:
        return ()
    try:
        plugin, probe = loaded.plugin(history.plan.platform), probe_of(loaded, history.plan)
        components = isolated(plugin, "components of the probe", probe.components)
    except MeshpkiError:
        return ()
    return tuple(one for one in components if one.health is Health.RUNNING)


def _show(page: Page, report: Report, running: Sequence[ComponentStatus], state_dir: Path) -> None:
    if not report.results:
        page.line(f"Nothing was provisioned in {state_dir}.")
    else:
        page.line(f"Removed: {len(report.results)} parts, all that provision made in {state_dir}.")
    if report.left:
        some = [*report.left[:SHOWN], *(["..."] if len(report.left) > SHOWN else [])]
        why = "meshpki did not make it" if report.results else "no journal says that meshpki made it"
        page.line(f"Left there, because {why}: {', '.join(some)}")
    if running:
        names = ", ".join(f"{one.name} ({one.detail})" if one.detail else one.name for one in running)
        page.line(f"Still running, for the same reason: {names}")
