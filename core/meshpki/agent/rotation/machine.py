"""The rotation core: what to do next about one identity, decided from a state, an event and a time.

It knows no clock, file, socket or randomness: `now` is epoch seconds, `chance` a number in [0, 1). The shell
performs the actions and reports back with events. The snapshot in the state is the one to serve; only another
snapshot ever takes its place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from meshpki.agent.rotation.backoff import DENIED, RETRY
from meshpki.health import Health

if TYPE_CHECKING:
    from meshpki.agent.rotation.failure import Failure
    from meshpki.agent.rotation.snapshot import Snapshot

HALF_LIFE: Final = 0.5
JITTER: Final = 0.1
"""Renewals are spread by +-10 % of half the life, so that a fleet started at once does not renew at once."""
LAST_CHANCE_SECONDS: Final = 5.0
"""However long the backoff: one more attempt is made this long before the certificate expires."""
SHORTEST_WAIT_SECONDS: Final = 1.0
"""Whatever happens (a certificate that lives for a second, a token file rewritten all the time): not faster."""


@dataclass(frozen=True, slots=True)
class State:
    """Where the rotation of one identity stands. Times are epoch seconds."""

    due_at: float
    """When to ask the CA next."""
    snapshot: Snapshot | None = None
    renew_at: float = 0.0
    """When the renewal of `snapshot` was planned; meaningless without one."""
    asking: bool = False
    failures: int = 0
    """Failed attempts since the last success."""
    failure: Failure | None = None
    failed_at: float = 0.0
    failing_since: float = 0.0
    """When the first of the failures since the last success came."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Obtained:
    """The CA's answer, examined and accepted."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Failed:
    """The attempt that `Ask` began came to nothing."""

    failure: Failure


@dataclass(frozen=True, slots=True)
class TokenChanged:
    """The token file is another one than at the last attempt."""


@dataclass(frozen=True, slots=True)
class RootsChanged:
    """The configured roots are others than before. `trusted`: the chain held still ends at one of them."""

    trusted: bool


Event: TypeAlias = Tick | Obtained | Failed | TokenChanged | RootsChanged


@dataclass(frozen=True, slots=True)
class Ask:
    """Read the token, make a new key, ask the CA; report `Obtained` or `Failed`."""


@dataclass(frozen=True, slots=True)
class Serve:
    """Give this snapshot to every face, in place of the one before it."""

    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Report:
    """Say this failure. `repeated`: the one before it was of the same kind and reason."""

    failure: Failure
    retry_at: float
    repeated: bool
    since: float
    """When the first failure since the last success came."""


Action: TypeAlias = Ask | Serve | Report


def start(now: float) -> State:
    """Begin with nothing in hand: the first attempt is due at once."""
    return State(due_at=now)


def resume(snapshot: Snapshot, renew_at: float, *, now: float, chance: float) -> State:
    """Begin with a snapshot of an earlier run: renewed when it was planned, or as a new one is if that is sooner."""
    latest = renewal_time(snapshot, now=now, chance=chance)
    due_at = min(max(renew_at, now), latest)
    return State(due_at=due_at, snapshot=snapshot, renew_at=due_at)


def advance(state: State, event: Event, *, now: float, chance: float) -> tuple[State, tuple[Action, ...]]:
    """Take one step. The same arguments give the same answer."""
    match event:
        case Tick():
            return _tick(state, now)
        case Obtained(snapshot) if state.asking:
            return _obtained(snapshot, now, chance)
        case Failed(failure) if state.asking:
            return _failed(state, failure, now, chance)
        case TokenChanged() if state.failure is not None and state.failure.waits_for_token and not state.asking:
            return _soon(state, now)
        case RootsChanged(trusted) if not state.asking and _roots_help(state, trusted=trusted):
            return _soon(state, now)
        case _:  # an answer nobody asked for, or something new while nothing waits for it
            return state, ()


def _roots_help(state: State, *, trusted: bool) -> bool:
    """Whether other roots are a reason to ask: what is held is trusted no more, or what failed may work now."""
    if state.failure is not None and state.failure.waits_for_roots:
        return True
    return state.snapshot is not None and not trusted


def _soon(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    soon = max(now, state.failed_at + SHORTEST_WAIT_SECONDS)
    return _tick(replace(state, due_at=min(state.due_at, soon)), now)


def _tick(state: State, now: float) -> tuple[State, tuple[Action, ...]]:
    clock_went_back = state.failure is not None and now < state.failed_at
    if state.asking or (now < state.due_at and not clock_went_back):
        return state, ()
    return replace(state, asking=True), (Ask(),)


def _obtained(snapshot: Snapshot, now: float, chance: float) -> tuple[State, tuple[Action, ...]]:
    renew_at = renewal_time(snapshot, now=now, chance=chance)
    return State(due_at=renew_at, snapshot=snapshot, renew_at=renew_at), (Serve(snapshot),)


def _failed(state: State, failure: Failure, now: float, chance: float) -> tuple[State, tuple[Action, ...]]:
    last = state.failure
    repeated = last is not None and (last.kind, last.reason) == (failure.kind, failure.reason)
    # A refusal is counted on its own: a CA that was away for long and then refuses starts the slow ladder at its foot.
    failures = state.failures + 1 if last is not None and last.denied == failure.denied else 1
    policy = DENIED if failure.denied else RETRY
    due_at = _not_past_last_chance(state.snapshot, now, now + policy.delay(failures, chance))
    since = now if last is None else min(state.failing_since, now)  # a clock may be set back meanwhile
    after = replace(
        state,
        asking=False,
        failures=failures,
        failure=failure,
        failed_at=now,
        failing_since=since,
        due_at=due_at,
    )
    return after, (Report(failure, due_at, repeated, since),)


def renewal_time(snapshot: Snapshot, *, now: float, chance: float) -> float:
    """Half of the life that is left when the certificate arrives, +-10 %.

    Counted from its arrival and not from `not_before`, which the CA sets back against slow clocks: a certificate
    of a minute set back by two would else be due before it came.
    """
    begin = max(float(snapshot.not_before), now)
    fraction = HALF_LIFE * (1 + JITTER * (2 * chance - 1))
    return max(begin + (snapshot.not_after - begin) * fraction, now + SHORTEST_WAIT_SECONDS)


def _not_past_last_chance(snapshot: Snapshot | None, now: float, due_at: float) -> float:
    if snapshot is None:
        return due_at
    last_chance = snapshot.not_after - LAST_CHANCE_SECONDS
    return min(due_at, last_chance) if now + SHORTEST_WAIT_SECONDS <= last_chance else due_at


def health(state: State, now: float) -> Health:
    """Say how this identity stands, in the words that a kubelet uses for certificates.

    `expired` outranks `denied`, for nothing works any more; `denied` outranks `overdue`, for waiting will not help.
    """
    if state.snapshot is None:
        return Health.DENIED if state.failure is not None and state.failure.denied else Health.FAILED
    if now >= state.snapshot.not_after:
        return Health.EXPIRED
    if state.failure is None:
        return Health.FRESH
    return Health.DENIED if state.failure.denied else Health.OVERDUE


def next_wake(state: State, now: float) -> float:
    """When the shell has to call with `Tick` next: an attempt is due, or the certificate expires."""
    moments = [] if state.asking else [state.due_at]
    if state.snapshot is not None and now < state.snapshot.not_after:
        moments.append(float(state.snapshot.not_after))
    return min(moments, default=float("inf"))
