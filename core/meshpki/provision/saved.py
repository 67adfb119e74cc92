"""Before a plan is applied: is it still what would be planned? What changed in between is refused."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from meshpki.errors import OperatorNeededError
from meshpki.provision import compare, facts
from meshpki.provision import plan as plans
from meshpki.provision.mode import ChosenBy

if TYPE_CHECKING:
    from meshpki.plugins import PluginSet
    from meshpki.provision.journal import History
    from meshpki.provision.plan import Plan


def resumes(plan: Plan, history: History) -> bool:
    """Say whether the journal shows a run of this very plan that has not come to its end."""
    return history.unfinished is not None and history.unfinished.digest == plan.digest


def still_valid(plugins: PluginSet, plan: Plan, history: History) -> None:
    """Detect and plan again; return only if the outcome is the same plan, or a run of it is to be gone on with.

    Raises OperatorNeededError whose evidence lists every difference, old -> new.
    """
    if resumes(plan, history):
        return
    state_dir = Path(plan.state_dir)
    found = facts.detect(plugins, plan.platform, state_dir, plan.options)
    kept = history.installed is not None and history.installed.mode is plan.mode
    word = plan.mode if plan.choice.by is ChosenBy.OPERATOR and not kept else None
    now = plans.make_plan(plugins, found, state_dir, word=word, history=history)
    if now.digest == plan.digest:
        return
    changed = tuple(str(difference) for difference in compare.differences(plan, now))
    raise OperatorNeededError(
        f"{len(changed)} thing{'s' if len(changed) > 1 else ''} changed since the plan was made",
        wanted=f"a plan of the digest {plan.digest}; what would be planned now has {now.digest}",
        todo="make the plan anew and review it",
        evidence=changed,
    )


def unfinished(plugins: PluginSet, platform: str, given: facts.Given, history: History) -> Plan | None:
    """Return the plan of a run that was broken off, if it was for the same platform and the same options.

    `provision` goes on with that plan rather than with a new one, so that what was settled when it was made (a free
    port, for example) stays settled.
    """
    plan = history.unfinished
    if plan is None or plan.platform != platform or plan.origin != plugins.plugin(platform).origin:
        return None
    return plan if facts.complete_options(plugins.platform(platform), given) == plan.options else None
