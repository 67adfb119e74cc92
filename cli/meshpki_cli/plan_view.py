"""A plan as people read it: what was found, what will change and why, how to take it back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.hooks import EffectState
from meshpki_cli.page import BAD, GOOD, QUIET, WARN, Cell

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.provision.plan import Plan, Removal
    from meshpki.provision.standing import Standing
    from meshpki_cli.page import Page

_VERBS: Final = {
    EffectState.ABSENT: Cell("new", GOOD),
    EffectState.DIFFERENT: Cell("change", WARN),
    EffectState.DONE: Cell("keep", QUIET),
    EffectState.FOREIGN: Cell("BLOCKED", BAD),
    EffectState.DAMAGED: Cell("DAMAGED", BAD),
}
_DIFF: Final = {"+": GOOD, "-": BAD, "~": WARN}


def show_plan(page: Page, plan: Plan, standings: Sequence[Standing], removals: Sequence[Removal]) -> None:
    """Write the whole plan; changes that stand already get one line each. `removals` are those still to be made."""
    page.title(f"Plan for {plan.platform}")
    page.pairs(
        [
            ("digest", plan.digest),
            ("state", plan.state_dir),
            ("plugin", plan.origin),
            ("found", f"{plan.detection.distribution} {plan.detection.version}".strip()),
            ("mode", f"{plan.mode}: {plan.choice.reason}"),
        ],
        indent=2,
    )
    if plan.detection.evidence:
        page.blank()
        page.title("Evidence")
        page.pairs([(item.question, f"{item.answer} ({item.source})") for item in plan.detection.evidence], indent=2)
    page.blank()
    page.title("Changes")
    for standing in standings:
        _show_change(page, standing)
    if removals:
        page.blank()
        page.title("Removals: made by an earlier run, and no part of this plan")
        for removal in removals:
            page.item("remove  ", Cell(f"{removal.title} ({removal.id})", BAD), indent=2)
    page.blank()
    page.line(summary(standings, removals))


def summary(standings: Sequence[Standing], removals: Sequence[Removal]) -> str:
    """The plan in one sentence."""
    pending = sum(one.pending for one in standings)
    if not pending and not removals:
        return f"Nothing to change: all {len(standings)} parts stand as planned."
    blocked = sum(one.blocked for one in standings)
    counts = {
        "blocked": blocked,
        "to change": pending - blocked,
        "to keep": len(standings) - pending,
        "to remove": len(removals),
    }
    always = {"to change", "to keep"}
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count or what in always) + "."


def _show_change(page: Page, standing: Standing) -> None:
    change, seen = standing.change, standing.observation
    verb = _VERBS[seen.state]
    page.item(f"{verb.text:8}", Cell(f"{change.title} ({change.id})", verb.style), indent=2)
    if not standing.pending:
        return
    if standing.blocked:
        page.pairs([("seen", seen.detail)], indent=11)
        return
    page.pairs(
        [
            ("seen", seen.detail),
            ("why", change.why),
            ("needs", change.precondition),
            ("gate", change.gate),
            ("undo", change.undo),
        ],
        indent=11,
    )
    for line in change.diff:
        page.item(line[:1], Cell(line[1:].strip(), _DIFF.get(line[:1], "")), indent=11)
