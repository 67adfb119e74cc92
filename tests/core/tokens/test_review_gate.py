"""Who may ask an API server, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.tokens.reasons import TokenReason
from meshpki.tokens.review import Cause, Confirmed, Refused, Unjudged, Verdict
from meshpki.tokens.review_gate import FULL, MAX_PAUSE_SECONDS, PAUSE_SECONDS, Gate, Places

GOOD = Confirmed()
BAD = Refused(TokenReason.POD_GONE, "gone")
OF_THE_SERVER = [Cause.AWAY, Cause.SLOW, Cause.THROTTLED, Cause.UNAUTHORIZED, Cause.FORBIDDEN]
OF_ONE_ASK = [Cause.SERVER_ERROR, Cause.ANSWER, Cause.BUSY]


def unjudged(cause: Cause, retry_after: float | None = None) -> Unjudged:
    return Unjudged(cause, "why", retry_after=retry_after)


def test_no_more_than_its_places() -> None:
    gate = Gate(Places(2), probe_seconds=5)
    assert [gate.enter(0), gate.enter(0), gate.enter(0)] == [None, None, FULL]
    gate.leave()
    assert [gate.enter(0), gate.enter(0)] == [None, FULL]


def test_gates_of_one_server_share_its_places_and_nothing_else() -> None:
    places = Places(2)
    one, other = Gate(places, probe_seconds=5), Gate(places, probe_seconds=5)
    assert [one.enter(0), other.enter(0), one.enter(0), other.enter(0)] == [None, None, FULL, FULL]
    one.leave()
    assert (other.enter(0), places.taken) == (None, 2)
    other.leave()
    one.landed(unjudged(Cause.AWAY), 0)
    assert (one.enter(0), other.enter(0)) == (unjudged(Cause.AWAY), None)


@pytest.mark.parametrize("cause", OF_THE_SERVER)
def test_closed_while_the_server_is_known_not_to_answer(cause: Cause) -> None:
    gate = Gate(Places(8), probe_seconds=5)
    failure = unjudged(cause)
    assert gate.landed(failure, 100)
    assert gate.failure == failure
    assert gate.enter(100 + PAUSE_SECONDS - 0.01) == failure
    assert gate.enter(100 + PAUSE_SECONDS) is None, "one may try"
    assert gate.enter(100 + PAUSE_SECONDS) == failure, "and only one, as long as it can take"
    assert gate.enter(100 + PAUSE_SECONDS + 4.9) == failure
    assert gate.enter(100 + PAUSE_SECONDS + 5) is None
    assert gate.landed(GOOD, 107)
    assert gate.enter(107) is None


@pytest.mark.parametrize("verdict", [GOOD, BAD, None, *map(unjudged, OF_ONE_ASK)])
def test_open_after_everything_else(verdict: Verdict | None) -> None:
    gate = Gate(Places(8), probe_seconds=5)
    assert not gate.landed(verdict, 100)
    assert gate.enter(100) is None


def test_one_slow_answer_among_others_closes_nothing() -> None:
    gate = Gate(Places(8), probe_seconds=5)
    gate.landed(GOOD, 100)
    assert not gate.landed(unjudged(Cause.SLOW), 104.9)
    assert gate.enter(104.9) is None
    assert gate.landed(unjudged(Cause.SLOW), 105), "nobody had an answer for as long as one may take"
    assert gate.enter(105) is not None
    gate.landed(GOOD, 106)
    assert gate.landed(unjudged(Cause.AWAY), 106.1), "who is away is not slow"


@pytest.mark.parametrize("cause", OF_ONE_ASK)
def test_what_is_of_one_ask_opens_nothing_either(cause: Cause) -> None:
    gate = Gate(Places(8), probe_seconds=5)
    gate.landed(unjudged(Cause.AWAY), 100)
    assert not gate.landed(unjudged(cause), 100.1)
    assert gate.enter(100.2) == unjudged(Cause.AWAY)


@pytest.mark.parametrize("verdict", [GOOD, BAD, None])
def test_any_verdict_opens(verdict: Verdict | None) -> None:
    gate = Gate(Places(8), probe_seconds=5)
    gate.landed(unjudged(Cause.AWAY), 100)
    assert gate.landed(verdict, 100.1)
    assert gate.enter(100.1) is None


@pytest.mark.parametrize(
    ("asked", "waits"), [(None, PAUSE_SECONDS), (0.0, PAUSE_SECONDS), (3.0, 3.0), (3600.0, MAX_PAUSE_SECONDS)]
)
def test_retry_after_is_kept_to_within_reason(asked: float | None, waits: float) -> None:
    gate = Gate(Places(8), probe_seconds=5)
    gate.landed(unjudged(Cause.THROTTLED, asked), 100)
    assert gate.enter(100 + waits - 0.01) is not None
    assert gate.enter(100 + waits) is None


def test_a_change_of_cause_is_told_and_the_same_cause_is_not() -> None:
    gate = Gate(Places(8), probe_seconds=5)
    told = [gate.landed(unjudged(cause), 1) for cause in (Cause.AWAY, Cause.AWAY, Cause.FORBIDDEN)]
    assert [*told, gate.landed(GOOD, 2), gate.landed(GOOD, 3)] == [True, False, True, True, False]


@given(st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["enter", "leave", "away", "good"])), max_size=80))
def test_over_any_history(events: list[tuple[float, str]]) -> None:
    """Never more inside than places; while it is closed at most one comes in per pause."""
    gate, now, inside, last = Gate(Places(3), probe_seconds=5), 0.0, 0, -10.0
    for pause, event in events:
        now += pause
        if event == "enter" and gate.enter(now) is None:
            inside += 1
            if gate.failure is not None:
                assert now - last >= PAUSE_SECONDS
                last = now
        elif event == "leave" and inside:
            gate.leave()
            inside -= 1
        elif event in {"away", "good"}:
            gate.landed(unjudged(Cause.AWAY) if event == "away" else GOOD, now)
            last = now if event == "away" else -10.0
        assert inside <= 3
