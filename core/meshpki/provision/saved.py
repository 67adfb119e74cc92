"""A plan in a file, with what it rests on; and whether it still is what would be planned. What changed is refused."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import IntegrityError, InvalidValueError, OperatorNeededError, UsageError
from meshpki.provision import base as bases
from meshpki.provision import codec, compare, facts
from meshpki.provision import plan as plans
from meshpki.provision.journal import RunKind
from meshpki.provision.mode import ChosenBy
from meshpki.runtime.files import PRIVATE_FILE, read_capped, write_atomically

if TYPE_CHECKING:
    from meshpki.plugins import PluginSet
    from meshpki.provision.base import Base
    from meshpki.provision.journal import History
    from meshpki.provision.plan import Plan

MAX_PLAN_BYTES: Final = 4 * 1024 * 1024
_TODO: Final = "make it anew: meshpki provision --plan-out FILE"


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan, and what stood when it was made."""

    plan: Plan
    base: Base


def save(saved: SavedPlan, path: Path) -> None:
    """Write plan and base with their digests, readable by people, mode 0600. Raises MachineError."""
    document = {
        "digest": saved.plan.digest,
        "plan": plans.to_json(saved.plan),
        "base_digest": saved.base.digest,
        "base": bases.to_json(saved.base),
    }
    write_atomically(path, json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n", mode=PRIVATE_FILE)


def load(path: Path) -> SavedPlan:
    """Read a saved plan.

    Raises MachineError when it cannot be read or is larger than 4 MiB, UsageError when it is no plan, and
    IntegrityError when its content is not what its digests say.
    """
    content = read_capped(path, limit=MAX_PLAN_BYTES)
    try:
        reader = codec.Reader(codec.decode(content), "the file")
        named = reader.text("digest"), reader.text("base_digest")
        saved = SavedPlan(plans.from_json(reader.take("plan")), bases.from_json(reader.take("base")))
        reader.end()
    except InvalidValueError as error:
        raise UsageError(f"{path} is no plan: {error.seen}", wanted=error.wanted, todo=error.todo or _TODO) from error
    for says, has in zip(named, (saved.plan.digest, saved.base.digest), strict=True):
        if says != has:
            raise IntegrityError(
                f"{path} was changed after it was saved: its content has the digest {has}",
                wanted=f"{says:.100}, as the file says",
                todo=f"review it again; {_TODO}",
            )
    return saved


def resumes(plan: Plan, history: History) -> bool:
    """Say whether the journal shows a run of this very plan that has not come to its end."""
    return history.unfinished is not None and history.unfinished.digest == plan.digest


def is_latest(plan: Plan, history: History) -> bool:
    """Say whether the last run was to provision by this very plan: what has happened since its base, it did itself."""
    last = history.runs[-1] if history.runs else None
    return last is not None and last.kind is RunKind.PROVISION and last.digest == plan.digest


def still_valid(plugins: PluginSet, saved: SavedPlan, history: History) -> None:
    """Detect and plan again; return only if the outcome is the same plan, or a run of it is to be gone on with.

    Raises OperatorNeededError whose evidence lists every difference, old -> new: of what stands, then of the plan.
    """
    plan = saved.plan
    if resumes(plan, history):
        return
    latest = is_latest(plan, history)
    now = _anew(plugins, plan, history)
    if latest:  # what it removed is not there to be removed again
        now = replace(now, removals=plan.removals)
    stands = () if latest else bases.moved(saved.base, history)
    planned = tuple(str(difference) for difference in compare.differences(plan, now))
    if not stands and not planned:
        return
    raise OperatorNeededError(
        "another run changed what stands since the plan was made" if stands else _count(planned),
        wanted=f"what the plan {plan.digest} was made on"
        if stands
        else f"a plan of the digest {plan.digest}; what would be planned now has {now.digest}",
        todo="make the plan anew, and look at what it shows",
        evidence=(*stands, *planned),
    )


def _anew(plugins: PluginSet, plan: Plan, history: History) -> Plan:
    state_dir = Path(plan.state_dir)
    found = facts.detect(plugins, plan.platform, state_dir, plan.options)
    kept = history.installed is not None and history.installed.mode is plan.mode
    word = plan.mode if plan.choice.by is ChosenBy.OPERATOR and not kept else None
    return plans.make_plan(plugins, found, state_dir, word=word, history=history)


def _count(changed: tuple[str, ...]) -> str:
    return f"{len(changed)} thing{'s' if len(changed) > 1 else ''} changed since the plan was made"


def unfinished(plugins: PluginSet, platform: str, given: facts.Given, history: History) -> Plan | None:
    """Return the plan of a run that was broken off, if it was for the same platform and the same options.

    `provision` goes on with that plan rather than with a new one, so that what was settled when it was made (a free
    port, for example) stays settled.
    """
    plan = history.unfinished
    if plan is None or plan.platform != platform or plan.origin != plugins.plugin(platform).origin:
        return None
    return plan if facts.complete_options(plugins.platform(platform), given) == plan.options else None
