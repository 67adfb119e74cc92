"""The rotation core: every state with every event as a table, and long random lives as a state machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from meshpki.agent.rotation import machine as rotation
from meshpki.agent.rotation.failure import Failure, FailureKind
from meshpki.agent.rotation.machine import Ask, Failed, Obtained, Report, RootsChanged, Serve, State, Tick, TokenChanged
from meshpki.hooks import Health
from support.snapshots import snapshot

NOW = 1000.0
NETWORK = Failure(FailureKind.NETWORK, "unavailable", "away")
DENIAL = Failure(FailureKind.VERDICT, "unauthenticated", "refused")
TOKEN = Failure(FailureKind.TOKEN, "token_expired", "expired")
ANSWER = Failure(FailureKind.ANSWER, "other_key", "not ours")
HELD = snapshot(1, begins=900, ends=4600)
NEXT = snapshot(2, begins=900, ends=8200)

EMPTY = State(due_at=NOW)
FRESH = State(due_at=2500, snapshot=HELD, renew_at=2500)
DUE = replace(FRESH, due_at=NOW)
FAILED = State(due_at=1010, failures=1, failure=NETWORK, failed_at=990)
NO_TOKEN = replace(FAILED, failure=TOKEN)
OVERDUE = replace(FRESH, due_at=1010, failures=1, failure=NETWORK, failed_at=990)
DENIED = replace(OVERDUE, failure=DENIAL)
EXPIRED = replace(OVERDUE, snapshot=snapshot(1, begins=900, ends=999))
STATES = {
    "empty": EMPTY,
    "fresh": FRESH,
    "due": DUE,
    "failed": FAILED,
    "no token": NO_TOKEN,
    "overdue": OVERDUE,
    "denied": DENIED,
    "expired": EXPIRED,
}
ASKED = (Ask(),)


def step(state: State, event: rotation.Event, now: float = NOW) -> tuple[State, tuple[rotation.Action, ...]]:
    return rotation.advance(state, event, now=now, chance=0.5)


@pytest.mark.parametrize(
    ("name", "asks"),
    [
        ("empty", True),
        ("fresh", False),
        ("due", True),
        ("failed", False),
        ("no token", False),
        ("overdue", False),
        ("denied", False),
        ("expired", False),
    ],
)
def test_tick_asks_only_when_due(name: str, asks: bool) -> None:
    state = STATES[name]
    assert step(state, Tick()) == ((replace(state, asking=True), ASKED) if asks else (state, ()))
    later = max(state.due_at, NOW)
    assert step(state, Tick(), later) == (replace(state, asking=True), ASKED)


@pytest.mark.parametrize("name", STATES)
def test_tick_while_asking_waits(name: str) -> None:
    state = replace(STATES[name], asking=True, due_at=0)
    assert step(state, Tick()) == (state, ())


@pytest.mark.parametrize("name", STATES)
def test_a_certificate_is_served_and_ends_every_trouble(name: str) -> None:
    state, actions = step(replace(STATES[name], asking=True), Obtained(NEXT))
    assert actions == (Serve(NEXT),)
    assert state == State(due_at=4600, snapshot=NEXT, renew_at=4600)  # half of 1000..8200


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("failure", [NETWORK, DENIAL, TOKEN, ANSWER], ids=lambda f: f.kind.value)
def test_a_failure_keeps_what_is_held(name: str, failure: Failure) -> None:
    before = replace(STATES[name], asking=True)
    state, (report,) = step(before, Failed(failure))
    assert state.snapshot is before.snapshot
    assert not state.asking
    assert (state.failure, state.failed_at) == (failure, NOW)
    assert isinstance(report, Report)
    assert report.retry_at == state.due_at > NOW
    assert report.repeated == (before.failure == failure)


def test_since_when_it_fails_is_kept_until_a_success_whatever_it_fails_for() -> None:
    state = replace(FRESH, asking=True)
    for now, failure in ((NOW, NETWORK), (NOW + 60, DENIAL), (NOW + 90, TOKEN)):
        state, (report,) = step(replace(state, asking=True), Failed(failure), now)
        assert isinstance(report, Report)
        assert state.failing_since == report.since == NOW
    state, (report,) = step(replace(state, asking=True), Failed(NETWORK), NOW - 600)
    assert isinstance(report, Report)
    assert state.failing_since == report.since == NOW - 600, "nothing fails since a time that is still to come"
    state, _ = step(replace(state, asking=True), Obtained(NEXT), NOW)
    state, (report,) = step(replace(state, asking=True), Failed(NETWORK), NOW + 3600)
    assert isinstance(report, Report)
    assert report.since == NOW + 3600


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("event", [Obtained(NEXT), Failed(NETWORK)], ids=["obtained", "failed"])
def test_an_answer_that_nobody_asked_for_changes_nothing(name: str, event: rotation.Event) -> None:
    assert step(STATES[name], event) == (STATES[name], ())


@pytest.mark.parametrize("name", STATES)
def test_a_new_token_helps_only_who_waits_for_one(name: str) -> None:
    state = STATES[name]
    if name in {"no token", "denied"}:
        assert step(state, TokenChanged()) == (replace(state, asking=True, due_at=NOW), ASKED)
    else:
        assert step(state, TokenChanged()) == (state, ())
    asking = replace(state, asking=True)
    assert step(asking, TokenChanged()) == (asking, ())


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("trusted", [True, False])
def test_other_roots_help_who_holds_what_is_trusted_no_more_and_whom_the_ca_could_not_answer(
    name: str, trusted: bool
) -> None:
    state = STATES[name]
    helped = name in {"failed", "overdue", "expired"} or (not trusted and state.snapshot is not None)
    expected = (replace(state, asking=True, due_at=min(NOW, state.due_at)), ASKED)
    assert step(state, RootsChanged(trusted)) == (expected if helped else (state, ()))
    asking = replace(state, asking=True)
    assert step(asking, RootsChanged(trusted)) == (asking, ())


@pytest.mark.parametrize("kind", FailureKind)
def test_other_roots_are_a_reason_where_trust_may_have_been_it(kind: FailureKind) -> None:
    state = replace(FAILED, failure=Failure(kind, "x", "x"))
    asks = kind in {FailureKind.NETWORK, FailureKind.ANSWER, FailureKind.MACHINE}
    assert bool(step(state, RootsChanged(trusted=True))[1]) == asks


def test_a_file_of_roots_rewritten_all_the_time_does_not_hammer_the_ca() -> None:
    state = replace(OVERDUE, failed_at=NOW - 0.1, due_at=NOW + 30)
    state, actions = step(state, RootsChanged(trusted=False))
    assert (actions, state.due_at) == ((), NOW + 0.9)


@pytest.mark.parametrize(
    ("planned", "due_at"),
    [(2000.0, 2000.0), (900.0, NOW), (0.0, NOW), (2750.0, 2750.0), (2900.0, 2800.0), (1e12, 2800.0)],
)
def test_what_an_earlier_run_held_is_renewed_when_it_was_planned_or_sooner(planned: float, due_at: float) -> None:
    state = rotation.resume(HELD, planned, now=NOW, chance=0.5)  # half of 1000..4600 is 2800
    assert state == State(due_at=due_at, snapshot=HELD, renew_at=due_at)
    assert rotation.health(state, NOW) is Health.FRESH


def test_a_token_file_rewritten_all_the_time_does_not_hammer_the_ca() -> None:
    state = replace(DENIED, failed_at=NOW - 0.1, due_at=NOW + 30)
    state, actions = step(state, TokenChanged())
    assert (actions, state.due_at) == ((), NOW + 0.9)
    assert step(state, TokenChanged(), NOW + 0.9)[1] == ASKED


def test_refusals_climb_a_slower_ladder_and_begin_at_its_foot() -> None:
    state = replace(State(due_at=NOW), asking=True, failures=9, failure=NETWORK, failed_at=990)
    delays = []
    for failure in (DENIAL, DENIAL, NETWORK, NETWORK):
        state, _ = step(replace(state, asking=True), Failed(failure))
        delays.append(state.due_at - NOW)
    assert delays == [30, 60, 1, 2]


def test_the_last_chance_comes_before_the_end() -> None:
    held = replace(FRESH, snapshot=snapshot(1, ends=1030), asking=True, failures=8, failure=NETWORK, failed_at=950)
    assert step(held, Failed(NETWORK))[0].due_at == 1025
    assert step(held, Failed(NETWORK), 1024.5)[0].due_at == 1084.5, "too near: the backoff goes on as ever"


def test_a_clock_set_back_does_not_hold_a_retry_up() -> None:
    state = replace(FAILED, failed_at=90_000, due_at=90_010)
    assert step(state, Tick(), NOW)[1] == ASKED


@pytest.mark.parametrize(
    ("state", "now", "expected"),
    [
        (EMPTY, NOW, Health.FAILED),
        (FRESH, NOW, Health.FRESH),
        (DUE, NOW, Health.FRESH),
        (FAILED, NOW, Health.FAILED),
        (NO_TOKEN, NOW, Health.FAILED),
        (replace(FAILED, failure=DENIAL), NOW, Health.DENIED),
        (OVERDUE, NOW, Health.OVERDUE),
        (DENIED, NOW, Health.DENIED),
        (EXPIRED, NOW, Health.EXPIRED),
        (replace(EXPIRED, failure=DENIAL), NOW, Health.EXPIRED),
        (FRESH, 4600, Health.EXPIRED),
    ],
)
def test_health(state: State, now: float, expected: Health) -> None:
    assert rotation.health(state, now) is expected


@pytest.mark.parametrize(
    ("state", "now", "expected"),
    [
        (EMPTY, NOW, NOW),
        (FRESH, NOW, 2500),
        (replace(FRESH, due_at=9000), NOW, 4600),
        (replace(FRESH, asking=True), NOW, 4600),
        (replace(EXPIRED, due_at=1060), NOW, 1060),
        (replace(EXPIRED, asking=True), NOW, float("inf")),
    ],
)
def test_next_wake(state: State, now: float, expected: float) -> None:
    assert rotation.next_wake(state, now) == expected


@given(
    begins=st.integers(-300, 60),
    life=st.integers(1, 10**8),
    chance=st.floats(0, 1, exclude_max=True),
)
def test_renewal_is_at_half_of_the_life_that_is_left(begins: int, life: int, chance: float) -> None:
    held = snapshot(begins=int(NOW) + begins, ends=int(NOW) + max(begins, 0) + life)
    at = rotation.renewal_time(held, now=NOW, chance=chance)
    begin = max(NOW, held.not_before)
    assert at >= NOW + 1
    if (held.not_after - begin) * 0.45 > 1:
        assert 0.4499 <= (at - begin) / (held.not_after - begin) <= 0.5501


def test_renewals_of_a_fleet_that_began_at_once_are_spread() -> None:
    held = snapshot(begins=int(NOW), ends=int(NOW) + 3600)
    earliest, latest = (rotation.renewal_time(held, now=NOW, chance=chance) - NOW for chance in (0.0, 1.0))
    assert earliest == pytest.approx(1620)
    assert latest == pytest.approx(1980), "half an hour, and a tenth of it either way"


class Life(RuleBasedStateMachine):
    """An agent's life: whatever happens in whatever order, the old certificate stays until a new one is there."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000_000.0
        self.state = rotation.start(self.now)
        self.served: list[int] = []
        self.serial = 0
        self.failures_in_a_row = 0

    def give(self, event: rotation.Event, chance: float) -> tuple[rotation.Action, ...]:
        before = self.state
        self.state, actions = rotation.advance(before, event, now=self.now, chance=chance)
        served = [action for action in actions if isinstance(action, Serve)]
        assert len(actions) <= 1
        assert before.snapshot is self.state.snapshot or [s.snapshot for s in served] == [self.state.snapshot]
        if Ask() in actions:
            assert not before.asking, "two requests at once"
            assert self.state.asking
        return actions

    chances = st.floats(0, 1, exclude_max=True)

    @rule(seconds=st.floats(0, 100_000), chance=chances)
    def time_passes(self, seconds: float, chance: float) -> None:
        self.now += seconds
        self.give(Tick(), chance)

    @rule(seconds=st.floats(1, 7200), chance=chances)
    def clock_is_set_back(self, seconds: float, chance: float) -> None:
        self.now -= seconds
        self.give(Tick(), chance)

    @rule(chance=chances)
    def token_is_rewritten(self, chance: float) -> None:
        self.give(TokenChanged(), chance)

    @precondition(lambda self: self.state.asking)
    @rule(life=st.integers(1, 100_000), backdate=st.integers(0, 300), chance=chances)
    def ca_issues(self, life: int, backdate: int, chance: float) -> None:
        self.serial += 1
        new = snapshot(self.serial, begins=int(self.now) - backdate, ends=int(self.now) + life)
        assert self.give(Obtained(new), chance) == (Serve(new),)
        self.served.append(self.serial)
        assert self.state.due_at >= self.now + 1, "never faster than once a second"

    @precondition(lambda self: self.state.asking)
    @rule(failure=st.sampled_from([NETWORK, DENIAL, TOKEN, ANSWER]), chance=chances)
    def attempt_fails(self, failure: Failure, chance: float) -> None:
        self.give(Failed(failure), chance)
        delay = self.state.due_at - self.now
        held = self.state.snapshot
        lowest, highest = (24, 300) if failure.denied else (0.8, 60)
        near_end = held is not None and self.state.due_at == held.not_after - rotation.LAST_CHANCE_SECONDS
        assert delay <= highest + 1e-6
        assert delay >= (1 if near_end else lowest) - 1e-6
        if held is not None and self.now + 1 <= held.not_after - 5:
            assert self.state.due_at <= held.not_after - 5 + 1e-6, "one more attempt before the end"

    @invariant()
    def newest_is_held(self) -> None:
        held = self.state.snapshot
        assert (held.serial if held else None) == (self.served[-1] if self.served else None)

    @invariant()
    def always_something_to_wait_for(self) -> None:
        assert self.state.asking or rotation.next_wake(self.state, self.now) < float("inf")
        assert rotation.next_wake(self.state, self.now) >= min(self.now, self.state.due_at)


TestLife = Life.TestCase
