"""How many refusals are recorded one by one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.audit.budget import RefusalBudget


def test_a_burst_then_one_a_second_and_a_count_of_the_rest() -> None:
    budget = RefusalBudget(per_second=1.0, burst=3)
    assert [budget.admit("a", 100.0) for _ in range(5)] == [True, True, True, False, False]
    assert budget.admit("b", 100.5) is False
    assert budget.admit("b", 101.0) is True
    assert budget.admit("b", 101.0) is False
    assert budget.take_suppressed(109.9, after_seconds=10) == {}
    assert budget.take_suppressed(110.0, after_seconds=10) == {"a": 2, "b": 2}
    assert budget.take_suppressed(500.0, after_seconds=10) == {}


def test_a_clock_that_goes_back_gives_nothing() -> None:
    budget = RefusalBudget(per_second=1.0, burst=1)
    assert budget.admit("a", 100.0)
    assert not budget.admit("a", 50.0)
    assert not budget.admit("a", 50.5)


@given(st.lists(st.floats(0, 5), max_size=200))
def test_never_more_than_burst_and_rate_and_none_lost(steps: list[float]) -> None:
    budget, now, admitted = RefusalBudget(per_second=2.0, burst=5), 0.0, 0
    for step in steps:
        now += step
        admitted += budget.admit("x", now)
    assert admitted <= 5 + 2.0 * now + 1e-6
    assert admitted + budget.take_suppressed(now, after_seconds=0).get("x", 0) == len(steps)
