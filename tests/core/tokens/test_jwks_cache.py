"""When fetched keys may be used, and when they are fetched again."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.tokens.jwks_cache import CachePolicy, CacheState, Step, after_failure, after_success, decide, may_be_behind
from meshpki.tokens.keys import KeySet
from support.tokens import KID, TokenMaker

KEYS = KeySet.from_jwks(TokenMaker().jwks())
POLICY = CachePolicy(refresh_seconds=60, unknown_kid_seconds=10, retry_seconds=5, stale_seconds=600)
FRESH = after_success(KEYS, 1000)


def failed(at: float, loaded_at: float = 1000) -> CacheState:
    return after_failure(after_success(KEYS, loaded_at), "away", at)


NOTHING = after_failure(CacheState(), "away", 1000)


@pytest.mark.parametrize(
    ("state", "kid", "now", "step"),
    [
        (CacheState(), KID, 0, Step.LOAD),
        (CacheState(), None, 0, Step.LOAD),
        (NOTHING, KID, 1000, Step.UNAVAILABLE),
        (NOTHING, KID, 1004.9, Step.UNAVAILABLE),
        (NOTHING, KID, 1005, Step.LOAD),
        (FRESH, KID, 1000, Step.USE),
        (FRESH, None, 1059, Step.USE),
        (FRESH, KID, 1060, Step.REFRESH),
        (FRESH, None, 1600, Step.REFRESH),
        (FRESH, KID, 1600.1, Step.LOAD),
        (FRESH, "other", 1000, Step.USE),
        (FRESH, "other", 1009.9, Step.USE),
        (FRESH, "other", 1010, Step.LOAD),
        (failed(1070), KID, 1070, Step.USE),
        (failed(1070), KID, 1075, Step.REFRESH),
        (failed(1070), "other", 1070, Step.UNAVAILABLE),
        (failed(1070), "other", 1075, Step.LOAD),
        (failed(1600), KID, 1600, Step.USE),
        (failed(1600), KID, 1601, Step.UNAVAILABLE),
        (failed(1600), KID, 1605, Step.LOAD),
        # A fetch that took 6 s: the pause begins at its end.
        (after_failure(FRESH, "hung", 1070, 6), "other", 1070, Step.UNAVAILABLE),
        (after_failure(FRESH, "hung", 1070, 6), "other", 1080.9, Step.UNAVAILABLE),
        (after_failure(FRESH, "hung", 1070, 6), "other", 1081, Step.LOAD),
        (after_failure(CacheState(), "hung", 1000, 6), KID, 1001, Step.UNAVAILABLE),
        (after_success(KEYS, 1000, 6), "other", 1002, Step.USE),
        (after_success(KEYS, 1000, 6), "other", 1015.9, Step.USE),
        (after_success(KEYS, 1000, 6), "other", 1016, Step.LOAD),
        (after_success(KEYS, 1000, 6), KID, 1060, Step.REFRESH),
        (after_success(KEYS, 1000, 6), KID, 1600.1, Step.LOAD),
        # The clock went back: everything is due, nothing is unusable.
        (FRESH, KID, 500, Step.REFRESH),
        (FRESH, "other", 500, Step.LOAD),
        (NOTHING, KID, 500, Step.LOAD),
    ],
)
def test_decisions(state: CacheState, kid: str | None, now: float, step: Step) -> None:
    assert decide(state, POLICY, kid, now) is step


@pytest.mark.parametrize(
    ("issued_at", "now", "behind"),
    [
        (1001, 1005, True),
        (1000, 1005, True),
        (971, 1005, True),  # within the margin: the clocks may differ
        (970, 1005, False),
        (900, 1005, False),
        (1035, 1005, True),
        (1036, 1005, False),  # from the future: it waits for nothing
        (1001, 1000, False),  # the look was for this very token
        (1001, 990, False),
    ],
)
def test_a_token_may_be_younger_than_our_last_look(issued_at: float, now: float, behind: bool) -> None:
    assert may_be_behind(FRESH, POLICY, issued_at, now) is behind


def test_one_token_waits_for_one_look_at_most() -> None:
    """However long somebody insists: after a pause the keys are looked at for it, and that settles it."""
    state, issued_at = FRESH, 1005.0
    seen = []
    for now in range(1005, 1060):
        step = decide(state, POLICY, "other", now)
        if step is Step.LOAD:
            state = after_success(KEYS, now)
        seen.append((now, may_be_behind(state, POLICY, issued_at, now)))
    assert [now for now, behind in seen if behind and now > 1040] == []
    assert (1010, False) in seen


def test_a_failure_after_the_clock_went_back_does_not_lengthen_the_trust() -> None:
    state = after_failure(FRESH, "away", 500)
    assert decide(state, POLICY, KID, 1100) is Step.REFRESH
    assert decide(state, POLICY, KID, 1101) is Step.LOAD


def test_success_forgets_the_failure_and_the_keys_that_are_gone() -> None:
    state = after_success(KeySet(()), 1100)
    assert (state.failure, state.keys) == ("", KeySet(()))


@pytest.mark.parametrize(
    "bounds",
    [
        {"refresh_seconds": 0},
        {"retry_seconds": -1},
        {"unknown_kid_seconds": 0},
        {"unknown_kid_seconds": math.inf},
        {"refresh_seconds": math.nan},
        {"stale_seconds": 59},
        {"stale_seconds": math.nan},
    ],
)
def test_bounds_that_make_no_sense(bounds: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError):
        CachePolicy(**bounds)


EVENTS = st.lists(st.tuples(st.floats(0, 100), st.sampled_from([KID, "other", None]), st.booleans()), max_size=60)


@given(EVENTS)
def test_over_any_history(events: list[tuple[float, str | None, bool]]) -> None:
    """Keys beyond the bound are never used; an unknown kid is refused only after a good fetch; fetches are rare."""
    state, now, fetches = CacheState(), 0.0, []
    for pause, kid, works in events:
        now += pause
        step = decide(state, POLICY, kid, now)
        if step in {Step.LOAD, Step.REFRESH}:
            fetches.append(now)
            state = after_success(KEYS, now) if works else after_failure(state, "away", now)
            step = decide(state, POLICY, kid, now)
            assert step in {Step.USE, Step.UNAVAILABLE}
        if step is Step.USE:
            assert state.keys is not None
            assert now - state.loaded_at <= POLICY.stale_seconds
            assert kid != "other" or not state.failure
    assert all(later - earlier >= POLICY.retry_seconds for earlier, later in itertools.pairwise(fetches))
