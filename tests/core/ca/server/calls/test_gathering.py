"""When those of a moment are worked on together: for whom one waits, for how long, and that nobody is forgotten."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.server.calls.gathering import GATHER_FROM, Gathering

SECONDS = 0.003
LATE = SECONDS + 0.001


def gathering(there: int, wanted: int) -> Gathering[int]:
    made: Gathering[int] = Gathering(SECONDS)
    made.wanted = wanted
    for number in range(there):
        made.add(number, 0.0)
    return made


@pytest.mark.parametrize(
    ("there", "wanted", "now", "patience", "due_if_nothing_more", "due_anyway"),
    [
        (0, 0, 0.0, None, False, False),
        (0, 16, LATE, None, False, False),
        (1, 0, 0.0, 0.0, True, False),  # alone: nobody is waited for, what is there already is taken along
        (1, GATHER_FROM - 1, 0.0, 0.0, True, False),
        (1, GATHER_FROM, 0.0, SECONDS, False, False),
        (15, 16, 0.001, SECONDS - 0.001, False, False),
        (16, 16, 0.0, 0.0, True, False),
        (17, 16, 0.0, 0.0, True, False),
        (1, 16, LATE, 0.0, True, True),
        (1, 0, LATE, 0.0, True, True),  # however much goes on happening
    ],
)
def test_when_it_is_time(
    there: int, wanted: int, now: float, patience: float | None, due_if_nothing_more: bool, due_anyway: bool
) -> None:
    one = gathering(there, wanted)
    assert one.patience(now) == (None if patience is None else pytest.approx(patience))
    assert one.due(now, nothing_more=True) is due_if_nothing_more
    assert one.due(now, nothing_more=False) is due_anyway


def test_the_time_runs_from_the_first_and_anew_for_the_next_batch() -> None:
    one = gathering(1, 16)
    one.add(1, SECONDS / 2)
    assert one.due(LATE, nothing_more=False)
    assert one.take() == [0, 1]
    assert one.take() == []
    one.add(2, LATE)
    assert not one.due(LATE, nothing_more=True)
    assert one.patience(LATE) == pytest.approx(SECONDS)


def test_so_many_are_enough_however_many_are_wanted_and_whatever_goes_on_happening() -> None:
    one: Gathering[int] = Gathering(SECONDS, 2)
    one.wanted = 16
    one.add(0, 0.0)
    assert not one.due(0.0, nothing_more=True)
    one.add(1, 0.0)
    assert one.due(0.0, nothing_more=False)


@given(
    st.lists(st.tuples(st.sampled_from(["add", "more", "nothing more"]), st.floats(0, 0.004)), max_size=60),
    st.integers(0, 20),
    st.integers(1, 70),
)
def test_whatever_happens_all_come_in_order_and_none_waits_longer_than_it_may_or_for_more_than_it_may(
    happened: list[tuple[str, float]], wanted: int, most: int
) -> None:
    one: Gathering[float] = Gathering(SECONDS, most)
    one.wanted = wanted
    now, added, taken = 0.0, list[float](), list[float]()
    for what, later in happened:
        patience = one.patience(now)
        assert (patience is None) == (len(added) == len(taken))
        now += later if patience is None else min(later, max(patience, 0.0001))  # as the queue is waited for
        if what == "add":
            one.add(now, now)
            added.append(now)
        if one.due(now, nothing_more=what == "nothing more"):
            batch = one.take()
            assert 0 < len(batch) <= most
            assert now - batch[0] <= SECONDS + 0.0002
            taken += batch
            one.wanted = len(batch)
    assert taken + one.take() == added


def test_no_more_are_taken_than_may_be_and_those_that_are_put_back_are_the_first_again() -> None:
    one: Gathering[int] = Gathering(SECONDS, 2)
    for number in range(3):
        assert one.nearly_full() is (number > 0)
        one.add(number, 0.0)
    assert one.take() == [0, 1]
    one.put_back([1])
    assert one.nearly_full()
    assert one.due(0.0, nothing_more=False)
    assert one.take() == [1, 2]
    assert one.take() == []


def test_it_is_never_nearly_full_with_nobody_there() -> None:
    """Whoever waits until there is room for more would wait for nobody."""
    one: Gathering[int] = Gathering(SECONDS, 1)
    assert not one.nearly_full()
    one.add(1, 0.0)
    assert one.nearly_full()
