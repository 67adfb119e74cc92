"""What `provision` and `apply` share once there is a plan: show, ask, apply, verify, say what is next."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.errors import ExitCode, MeshpkiError
from meshpki_cli import consent, progress
from meshpki_cli.failures import InterruptedRun
from meshpki_cli.options import command_for
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.hooks import WorkloadStatus
    from meshpki.plugins import PluginSet
    from meshpki.provision.base import Base
    from meshpki.provision.engine import Report
    from meshpki.provision.journal import History
    from meshpki.provision.plan import Plan, Removal
    from meshpki.provision.standing import Standing
    from meshpki.provision.verify import VerifyReport
    from meshpki_cli.page import Page


@dataclass(frozen=True, slots=True)
class Prospect:
    """A plan, and how the world stands with regard to it."""

    plugins: PluginSet
    plan: Plan
    history: History
    standings: tuple[Standing, ...]

    @property
    def base(self) -> Base:
        """What stands, by what the journal said when this was looked at."""
        from meshpki.provision.base import Base

        return Base.of(self.history)

    @property
    def removals(self) -> tuple[Removal, ...]:
        """What the plan removes and what is there to be removed: a run that was broken off may have begun to."""
        made = {one.id for one in self.history.made}
        return tuple(removal for removal in self.plan.removals if removal.id in made)

    @property
    def found(self) -> tuple[Standing, ...]:
        """What stands as planned, though no journal says that we made it."""
        made = {one.id for one in self.history.made}
        return tuple(one for one in self.standings if not one.pending and one.change.id not in made)

    @property
    def pending(self) -> bool:
        """Whether applying the plan would change anything."""
        return bool(self.removals) or any(one.pending for one in self.standings)

    @property
    def recorded(self) -> bool:
        """Whether the journal says that just this plan was applied to the end."""
        written = self.history.plan
        return self.history.unfinished is None and written is not None and written.digest == self.plan.digest

    def document(self) -> dict[str, object]:
        """For `--output json`: the plan as it is saved, and what it would do."""
        from meshpki.provision.plan import to_json

        states = {
            one.change.id: {"state": one.observation.state, "detail": one.observation.detail} for one in self.standings
        }
        return {
            "digest": self.plan.digest,
            "pending": self.pending,
            "observed": states,
            "plan": to_json(self.plan),
        }


def prospect(plugins: PluginSet, plan: Plan, history: History) -> Prospect:
    """Look at the world with the plan in hand; changes nothing."""
    from meshpki.provision.engine import survey

    return Prospect(plugins, plan, history, survey(plugins, plan))


def show_only(ahead: Prospect, output: Output) -> int:
    """Write the plan and nothing else; exit status 3 when changes are pending."""
    emit(output, ahead.document(), lambda page: _show_prospect(page, ahead))
    return ExitCode.OPERATOR_NEEDED if ahead.pending else ExitCode.DONE


def _show_prospect(page: Page, ahead: Prospect) -> None:
    from meshpki_cli.plan_view import show_plan

    show_plan(page, ahead.plan, ahead.standings, ahead.removals)


def carry_out(ahead: Prospect, output: Output, *, yes: bool, otherwise: str) -> int:
    """Show the plan, ask, apply it, verify, and say what is next. `otherwise` as for `consent.obtain`."""
    from meshpki.provision.standing import refuse_blocked

    if ahead.pending or not ahead.recorded:
        _show_before(ahead, output)
        refuse_blocked(ahead.standings)
    if ahead.pending:
        consent.obtain("Apply this plan?", yes=yes, otherwise=otherwise)
    report = None if ahead.recorded and not ahead.pending else _apply(ahead, asked=ahead.pending and not yes)
    if report is None or not report.changed:
        return _tell(ahead, output, report, None)
    try:
        return _tell(ahead, output, report, verified(ahead.plugins, ahead.plan))
    except KeyboardInterrupt as error:
        todo = command_for("status", ahead.plan.state_dir)
        raise InterruptedRun("everything is applied, the report was cut short", todo) from error


def _tell(ahead: Prospect, output: Output, report: Report | None, checked: VerifyReport | None) -> int:
    workloads = _workloads(ahead)
    document = {
        "digest": ahead.plan.digest,
        "changed": report is not None and report.changed,
        "results": report.results if report else (),
        "verified": {"passed": checked.passed, "checks": checked.checks} if checked else None,
        "workloads": workloads,
    }
    emit(output, document, lambda page: _show_after(page, ahead, report, checked, workloads))
    return ExitCode.DONE if checked is None or checked.passed else ExitCode.ERROR


def _show_before(ahead: Prospect, output: Output) -> None:
    """A table is for people and comes first; a document is for programs, and there is only one, at the end."""
    if output is Output.TABLE:
        emit(output, None, lambda page: _show_prospect(page, ahead))
    elif sys.stderr.isatty():
        from meshpki_cli.page import Page

        _show_prospect(Page(sys.stderr), ahead)


def _apply(ahead: Prospect, *, asked: bool) -> Report:
    """Apply what was shown. While a person thought about it things may have changed: then all is looked at again."""
    from meshpki.provision import engine, journal, saved

    agreed = ahead.standings if asked else ()
    try:
        with journal.locked(Path(ahead.plan.state_dir)) as opened, progress.reported() as told:
            if asked:
                saved.still_valid(ahead.plugins, saved.SavedPlan(ahead.plan, ahead.base), opened.history())
            return engine.apply(ahead.plugins, ahead.plan, opened, base=ahead.base, agreed=agreed, progress=told)
    except engine.InterruptedRunError as error:
        raise InterruptedRun(error.seen.removeprefix("interrupted "), error.todo) from error
    except KeyboardInterrupt as error:
        raise at_an_edge("provision", ahead.plan.state_dir) from error


def at_an_edge(run: str, state_dir: Path | str) -> InterruptedRun:
    """Ctrl-C before the first line that a run writes, or after its last: all of it may be done, or nothing."""
    state = f"as {run} began, or when all of it was done"
    return InterruptedRun(state, f"run the same command again, or see {command_for('status', state_dir)}")


def verified(plugins: PluginSet, plan: Plan) -> VerifyReport:
    """Make the real round against an installation, with progress on stderr."""
    import time

    from meshpki.provision.status import probe_of
    from meshpki.provision.verify import verify

    try:
        with progress.reported("verifying") as told:
            return verify(probe_of(plugins, plan), time.time(), progress=told if sys.stderr.isatty() else None)
    except KeyboardInterrupt as error:
        todo = command_for("verify", plan.state_dir)
        raise InterruptedRun("everything is applied, it was not verified", todo) from error


def _workloads(ahead: Prospect) -> Sequence[WorkloadStatus]:
    """Where each workload finds its identity; nothing when the platform cannot say so now."""
    from meshpki.plugins import isolated
    from meshpki.provision.status import probe_of

    try:
        plugin, probe = ahead.plugins.plugin(ahead.plan.platform), probe_of(ahead.plugins, ahead.plan)
        return isolated(plugin, "workloads of the probe", probe.workloads)
    except MeshpkiError:
        return ()


def _show_after(
    page: Page,
    ahead: Prospect,
    report: Report | None,
    checked: VerifyReport | None,
    workloads: Sequence[WorkloadStatus],
) -> None:
    from meshpki_cli.page import GOOD, Cell
    from meshpki_cli.status_view import show_workload_paths
    from meshpki_cli.verify_view import show_checks

    if report is None or not report.changed:
        page.line(f"Nothing to change: all {len(ahead.standings)} parts stand as planned ({ahead.plan.digest}).")
    else:
        page.blank()
        page.line(Cell(f"Applied: {_deeds(report)}.", GOOD))
    if ahead.found:
        page.line(
            f"{len(ahead.found)} of them stood there before, and no journal says that meshpki made them: "
            f"deprovision will leave them ({', '.join(one.change.id for one in ahead.found)})."
        )
    if checked is not None:
        page.blank()
        show_checks(page, checked)
    if workloads:
        page.blank()
        show_workload_paths(page, workloads)
    page.blank()
    page.title("Next")
    directory = ahead.plan.state_dir
    page.pairs(
        [
            ("see how it is", command_for("status", directory)),
            ("prove it again", command_for("verify", directory)),
            ("take it all back", command_for("deprovision", directory)),
        ],
        indent=2,
    )


def _deeds(report: Report) -> str:
    counts: dict[str, int] = {}
    for result in report.results:
        counts[result.deed] = counts.get(result.deed, 0) + 1
    return ", ".join(f"{count} {deed}" for deed, count in counts.items())
