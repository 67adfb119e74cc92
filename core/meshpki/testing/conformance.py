"""What every platform's changes must do, as one call for a vendor's tests: `check_changes(plugins, "acme", ...)`.

Plans twice, makes every change twice, takes every change back twice, and looks in between. AssertionError names the
change and the rule of `meshpki.hooks.Effect` that it breaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki import records
from meshpki.hooks import EffectState
from meshpki.provision import compare, facts
from meshpki.provision import plan as plans

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Change, Effect, Params
    from meshpki.plugins import PluginSet
    from meshpki.provision.facts import Given
    from meshpki.provision.plan import Plan


def check_changes(plugins: PluginSet, platform: str, state_dir: Path, given: Given) -> None:
    """Make and take back a whole plan in `state_dir`, which must exist and hold nothing of the platform's."""
    plan = _plan(plugins, platform, state_dir, given)
    again = _plan(plugins, platform, state_dir, given)
    moved = ", ".join(map(str, compare.differences(plan, again)))
    assert plan.digest == again.digest, f"the same request gave another plan: {moved}"
    made: list[tuple[Change, Params]] = []
    try:
        for change in plan.changes:
            made.append((change, _record(plugins, plan, change)))
            _check_made(_effect(plugins, plan, change), change)
    finally:
        for change, record in reversed(made):
            _effect(plugins, plan, change).undo(record, _silent)
    for change, record in reversed(made):
        effect = _effect(plugins, plan, change)
        state = effect.observe().state
        assert state is EffectState.ABSENT, f"{change.id}: {state} after undo, wanted absent"
        effect.undo(record, _silent)


def _plan(plugins: PluginSet, platform: str, state_dir: Path, given: Given) -> Plan:
    return plans.make_plan(plugins, facts.detect(plugins, platform, state_dir, given), state_dir)


def _effect(plugins: PluginSet, plan: Plan, change: Change) -> Effect:
    """Build it anew each time: a journal keeps parameters and records, never an object."""
    return plugins.effect(plan.platform, change.kind, plan.request.state_dir, change.params)


def _record(plugins: PluginSet, plan: Plan, change: Change) -> Params:
    effect = _effect(plugins, plan, change)
    state = effect.observe().state
    assert state is EffectState.ABSENT, f"{change.id}: {state} before it was applied, wanted absent"
    return records.check_record(effect.undo_record(), change.id)


def _check_made(effect: Effect, change: Change) -> None:
    for time in ("once", "twice"):
        effect.apply(_silent)
        effect.gate(_silent)
        observation = effect.observe()
        state = observation.state
        assert state is EffectState.DONE, f"{change.id}: {state} ({observation.detail}) applied {time}, wanted done"


def _silent(line: str) -> None:
    pass
