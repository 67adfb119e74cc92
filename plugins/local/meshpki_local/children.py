"""What to start, stop, kill and adopt: decided from what is wanted, what is there, and a time. No effects here."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from meshpki_local.processes import ProcessRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki_local.processes import Found

STOP_SECONDS: Final = 10.0
"""How long a child may take to end by SIGTERM before it is killed."""
STABLE_SECONDS: Final = 10.0
"""A child that ran this long had come up: its next failure counts as the first."""
HOLD_SECONDS: Final = 15.0
"""How long a new child waits for those of a lower rank to be ready; then it starts anyway, and retries by itself."""
_FIRST_DELAY: Final = 0.25
_LONGEST_DELAY: Final = 30.0


class Phase(StrEnum):
    """Where a child is in its life."""

    RUNNING = "running"
    STOPPING = "stopping"
    WAITING = "waiting"
    """Ended unasked, and due to be started again."""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A child that should run. Another `fingerprint` means: to be started anew. A lower `rank` is stopped later."""

    name: str
    argv: tuple[str, ...]
    fingerprint: str
    rank: int


@dataclass(frozen=True, slots=True)
class Child:
    """A child as we know it. `since` and `due` are seconds of a monotonic clock."""

    name: str
    fingerprint: str
    rank: int
    phase: Phase
    ref: ProcessRef | None
    since: float
    due: float = 0.0
    """WAITING: when to start it. STOPPING: when to kill it."""
    restarts: int = 0
    failures: int = 0
    """In a row, without a stable run between."""
    reason: str = ""
    """Why it ended last, in words."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start it; afterwards `started`, or `failed_to_start`."""

    spec: ChildSpec


@dataclass(frozen=True, slots=True)
class Terminate:
    """Send SIGTERM; afterwards `terminating`."""

    child: Child


@dataclass(frozen=True, slots=True)
class Kill:
    """Send SIGKILL."""

    child: Child


Action: TypeAlias = Start | Terminate | Kill


@dataclass(frozen=True, slots=True)
class World:
    """All that a decision rests on."""

    wanted: tuple[ChildSpec, ...]
    children: Mapping[str, Child]
    now: float
    ready: frozenset[int] = frozenset()
    """Ranks whose children serve."""
    since: float = 0.0
    """When these `wanted` were first wanted: what `HOLD_SECONDS` counts from."""
    shutdown: bool = False


def decide(world: World) -> list[Action]:
    """The next actions, in order. Deciding again on the world after them gives none until something happens."""
    wanted = {} if world.shutdown else {spec.name: spec for spec in world.wanted}
    actions: list[Action] = []
    for child in sorted(world.children.values(), key=lambda child: (-child.rank, child.name)):
        actions += _for_child(child, wanted.get(child.name), world)
    actions += [Start(spec) for spec in wanted.values() if spec.name not in world.children and not is_held(spec, world)]
    return actions


def _for_child(child: Child, spec: ChildSpec | None, world: World) -> list[Action]:
    fits = spec is not None and spec.fingerprint == child.fingerprint
    match child.phase:
        case Phase.RUNNING if not fits and not _must_wait_to_stop(child, world):
            return [Terminate(child)]
        case Phase.STOPPING if world.now >= child.due:
            return [Kill(child)]
        case Phase.WAITING if spec is not None and (world.now >= child.due or not fits):
            return [Start(spec)]
        case _:
            return []


def _must_wait_to_stop(child: Child, world: World) -> bool:
    """At shutdown the CA stays until no agent is left that may ask it."""
    return world.shutdown and any(
        other.rank > child.rank and other.phase is not Phase.WAITING for other in world.children.values()
    )


def is_held(spec: ChildSpec, world: World) -> bool:
    """Whether a new child waits for a lower rank to be ready: an agent for the CA, so that its first call succeeds."""
    lower = {other.rank for other in world.wanted if other.rank < spec.rank}
    return not lower <= world.ready and world.now < world.since + HOLD_SECONDS


def started(spec: ChildSpec, previous: Child | None, ref: ProcessRef, now: float) -> Child:
    """The child after it was started; `previous` is the WAITING one that it replaces, if any."""
    fresh = Child(spec.name, spec.fingerprint, spec.rank, Phase.RUNNING, ref, now)
    if previous is None:
        return fresh
    failures = previous.failures if previous.fingerprint == spec.fingerprint else 0
    return replace(fresh, restarts=previous.restarts + 1, failures=failures, reason=previous.reason)


def failed_to_start(spec: ChildSpec, previous: Child | None, now: float, reason: str) -> Child:
    """The child after the machine refused to start it: due again later, as if it had ended at once."""
    fingerprint, failures = spec.fingerprint, 1 + (previous.failures if previous else 0)
    restarts = previous.restarts if previous else 0
    due = now + delay(failures)
    return Child(spec.name, fingerprint, spec.rank, Phase.WAITING, None, now, due, restarts, failures, reason)


def terminating(child: Child, now: float) -> Child:
    """The child after SIGTERM was sent to it."""
    return replace(child, phase=Phase.STOPPING, due=now + STOP_SECONDS)


def ended(child: Child, now: float, reason: str) -> Child | None:
    """The child after it has ended: None when we asked it to, else WAITING with a delay that grows."""
    if child.phase is Phase.STOPPING:
        return None
    failures = 1 if now - child.since >= STABLE_SECONDS else child.failures + 1
    return replace(
        child, phase=Phase.WAITING, ref=None, since=now, due=now + delay(failures), failures=failures, reason=reason
    )


def delay(failures: int) -> float:
    """Seconds to wait before the start that follows so many failures in a row: doubled each time, capped."""
    return min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (min(failures, 32) - 1))


def next_moment(world: World) -> float | None:
    """The next time at which `decide` may say something new without anything having happened."""
    moments = [child.due for child in world.children.values() if child.phase is not Phase.RUNNING]
    if not world.shutdown and any(spec.name not in world.children for spec in world.wanted):
        moments.append(world.since + HOLD_SECONDS)
    return min(moments, default=None)


@dataclass(frozen=True, slots=True)
class Adoption:
    """Which of the processes that were found become our children, and which are one too many."""

    children: Mapping[str, Child] = field(default_factory=dict)
    surplus: tuple[ProcessRef, ...] = ()


def adopt(found: Sequence[Found], wanted: Sequence[ChildSpec], known: Mapping[str, int], now: float) -> Adoption:
    """Take over what a supervisor before us left running; `known` are restarts by name, as it had counted them.

    Of two processes by one name, the one that fits what is wanted stays, then the older. A process that is wanted no
    more, or in another shape, is adopted too: `decide` then stops it as it stops any other.
    """
    ranks = {spec.name: spec.rank for spec in wanted}
    fitting = {(spec.name, spec.fingerprint) for spec in wanted}
    children: dict[str, Child] = {}
    surplus: list[ProcessRef] = []
    for entry in sorted(found, key=lambda entry: (entry.name, entry.fingerprint) not in fitting):
        if entry.name in children:
            surplus.append(entry.ref)
            continue
        since, restarts = now - entry.age, known.get(entry.name, 0)
        children[entry.name] = Child(
            entry.name, entry.fingerprint, ranks.get(entry.name, 1), Phase.RUNNING, entry.ref, since, restarts=restarts
        )
    return Adoption(children, tuple(surplus))
