"""Delays stay within their bounds, whatever the attempt and the chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.rotation.backoff import DENIED, RETRY, Backoff

CHANCE = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("failures", "expected"), [(0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (10_000, 60.0)]
)
def test_doubles_up_to_the_cap(failures: int, expected: float) -> None:
    assert RETRY.delay(failures, 0.5) == expected


def test_a_refusal_is_asked_again_slowly() -> None:
    assert [DENIED.delay(failures, 0.5) for failures in (1, 2, 9)] == [30.0, 60.0, 300.0]


@given(st.integers(1, 10**6), CHANCE)
def test_stays_within_jitter_and_cap(failures: int, chance: float) -> None:
    policy = Backoff(first=2.0, cap=50.0, jitter=0.25)
    assert 1.5 <= policy.delay(failures, chance) <= 50.0


@pytest.mark.parametrize("policy", [RETRY, DENIED])
def test_those_who_failed_at_once_do_not_come_back_at_once(policy: Backoff) -> None:
    bare = policy.delay(2, 0.5)
    assert policy.delay(2, 0.0) == pytest.approx(0.8 * bare)
    assert policy.delay(2, 0.999) > 1.19 * bare


@given(st.integers(1, 20), CHANCE, CHANCE)
def test_chance_only_spreads(failures: int, one: float, other: float) -> None:
    shorter, longer = sorted((RETRY.delay(failures, one), RETRY.delay(failures, other)))
    assert longer <= shorter * 1.2 / 0.8 + 1e-9
