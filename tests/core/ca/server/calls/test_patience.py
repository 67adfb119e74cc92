"""Who was late too often: over any history, a caller costs no more late calls than he is forgiven."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.server.calls.patience import FORGIVEN_PER_SECOND, MOST_CALLERS, MOST_OWED, OFTEN, Patience


def noted(*times: float, caller: object = "a") -> Patience:
    patience = Patience()
    for at in times:
        patience.note(caller, at)
    return patience


@pytest.mark.parametrize(
    ("times", "now", "lost"),
    [
        ((), 0, False),
        ((0,) * int(OFTEN), 0, False),
        ((0,) * (int(OFTEN) + 1), 0, True),
        ((0,) * (int(OFTEN) + 1), 1, False),
        ((0,) * 20, 11.9, True),
        ((0,) * 20, 12, False),
        (tuple(range(100)), 100, False),  # once a second is forgiven for ever
        (tuple(each / 2 for each in range(100)), 50, True),
        ((0,) * 10_000, MOST_OWED - OFTEN, False),  # however often: a minute will do
        ((0,) * 10_000, MOST_OWED - OFTEN - 1, True),
        ((5,) * 20, 4, True),  # a look from before the note
    ],
)
def test_what_is_too_often(times: tuple[float, ...], now: float, lost: bool) -> None:
    patience = noted(*times)
    assert patience.lost("a", now) is lost
    assert not patience.lost("b", now)


def test_nothing_is_kept_of_whom_there_is_nothing_to_forgive() -> None:
    patience = noted(0, 0)
    assert patience
    patience.look(1)
    assert patience
    patience.look(2)
    assert not patience


def test_there_is_room_for_so_many_and_the_first_is_forgotten() -> None:
    patience = Patience()
    for _ in range(20):
        patience.note("first", 0)
    for number in range(MOST_CALLERS):
        patience.note(number, 0)
    assert not patience.lost("first", 0)
    assert len(patience._owed) == MOST_CALLERS


EVENTS = st.lists(st.tuples(st.floats(0, 30), st.sampled_from("ab")), max_size=200)


@given(EVENTS)
def test_over_any_history(events: list[tuple[float, str]]) -> None:
    """Whoever is heard when he is not lost is so at most `OFTEN` times and once a second; the others do not matter."""
    patience, alone, now = Patience(), {"a": Patience(), "b": Patience()}, 0.0
    tolerated = {"a": 0, "b": 0}
    for pause, caller in events:
        now += pause
        assert patience.lost(caller, now) is alone[caller].lost(caller, now)
        tolerated[caller] += not patience.lost(caller, now)
        patience.note(caller, now)
        alone[caller].note(caller, now)
        patience.look(now)
    assert all(times <= OFTEN + 1 + now * FORGIVEN_PER_SECOND for times in tolerated.values())
    assert not any(patience.lost(caller, now + MOST_OWED) for caller in "ab")
