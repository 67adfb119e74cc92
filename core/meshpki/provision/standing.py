"""How the world stands with regard to a plan, and where that forbids to begin. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import OperatorNeededError
from meshpki.hooks import EffectState
from meshpki.provision import codec
from meshpki.provision.mode import ChosenBy, lower

if TYPE_CHECKING:
    from meshpki.hooks import Change, Observation
    from meshpki.provision.journal import History
    from meshpki.provision.plan import Plan

_BLOCKED: Final = frozenset({EffectState.FOREIGN, EffectState.DAMAGED})


@dataclass(frozen=True, slots=True)
class Standing:
    """A planned change, and how the world stands with regard to it."""

    change: Change
    observation: Observation

    @property
    def pending(self) -> bool:
        """True when applying the plan would do something about it."""
        return self.observation.state is not EffectState.DONE

    @property
    def blocked(self) -> bool:
        """True when the engine refuses to touch what is there."""
        return self.observation.state in _BLOCKED


def refuse_blocked(standings: tuple[Standing, ...]) -> None:
    """Raise OperatorNeededError, with each as evidence, if anything of others is in the way or of ours is damaged."""
    blocked = [one for one in standings if one.blocked]
    if not blocked:
        return
    foreign = sum(one.observation.state is EffectState.FOREIGN for one in blocked)
    kinds = (
        (foreign, "something that meshpki did not make stands in the way", "move away what can go"),
        (len(blocked) - foreign, "what meshpki made is damaged", "put right what is damaged"),
    )
    met = [kind for kind in kinds if kind[0]]
    raise OperatorNeededError(
        "; ".join(f"{count} of {len(standings)} parts: {what}" for count, what, _ in met),
        wanted="nothing there, or what an earlier run made, whole",
        todo="look at it, " + ", ".join(way for _, _, way in met) + ", then run the same command again",
        evidence=tuple(f"{one.change.title}: {one.observation.detail or one.change.id}" for one in blocked),
    )


def refuse_unseen(agreed: tuple[Standing, ...], now: tuple[Standing, ...]) -> None:
    """Refuse to change what was shown as kept: somebody did something to it since."""
    kept = {one.change.id for one in agreed if not one.pending}
    unseen = [one for one in now if one.pending and one.change.id in kept]
    if unseen:
        raise OperatorNeededError(
            "what stood as planned when the plan was shown does not any more",
            wanted="what was shown, for that is what was agreed to",
            todo="run the same command again, and look at what it shows",
            evidence=tuple(f"{one.change.title}: {one.observation.detail or one.observation.state}" for one in unseen),
        )


def refuse_lowering(plan: Plan, history: History) -> None:
    """Refuse a plan that was made before somebody installed a higher mode: no run goes down by itself."""
    installed = history.installed
    if installed is not None and plan.choice.by is ChosenBy.EVIDENCE and lower(plan.mode, installed.mode):
        raise OperatorNeededError(
            f"{installed.mode} is installed, the plan is for {plan.mode}",
            wanted="the operator's word to go down",
            todo=f"make the plan anew; if {plan.mode} is meant, say --fallback {plan.mode}",
        )


def refuse_unknown(plan: Plan, history: History) -> None:
    """Refuse a plan that does not say what becomes of something that stands."""
    known = {change.id for change in plan.changes} | {removal.id for removal in plan.removals}
    unknown = [made.title for made in history.made if made.id not in known]
    if unknown:
        raise OperatorNeededError(
            f"the journal holds what this plan does not know: {codec.names(unknown)}",
            wanted="a plan that says what becomes of it",
            todo="make the plan anew",
        )
