"""How long a row is given to be heard before the next one is judged."""

from __future__ import annotations

import pytest

from meshpki.ca.server.calls.hearing import Hearing


class Expected:
    """A call whose request comes when the test says so."""

    def __init__(self) -> None:
        self.waiting = True

    def waits(self) -> bool:
        return self.waiting


def hearing(calls: int) -> tuple[Hearing, list[Expected]]:
    made, expected = Hearing(), [Expected() for _ in range(calls)]
    for call in expected:
        made.add(call)
    return made, expected


def test_a_row_that_nobody_is_afraid_for_is_over_at_once() -> None:
    made, _ = hearing(0)
    assert made.over(nothing_more=False)
    assert made.patience() is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_it_is_over_when_all_are_heard_in_whatever_order(order: tuple[int, ...]) -> None:
    made, expected = hearing(3)
    for number in order:
        assert not made.over(nothing_more=False)
        assert made.patience() == 0.0
        expected[number].waiting = False
    assert made.over(nothing_more=False)
    assert made.patience() is None


def test_whoever_is_not_heard_when_all_that_has_happened_was_taken_is_late() -> None:
    made, _ = hearing(2)
    assert made.over(nothing_more=True)
    assert made.patience() is None
    made.add(Expected())
    assert not made.over(nothing_more=False)
