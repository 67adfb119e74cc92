"""Where calls wait for their requests: who is sent away, when, why, and who is not."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, cast

import grpc
import pytest

from meshpki.ca.server.calls.methods import CallRefusedError
from meshpki.ca.server.calls.patience import LATE_SECONDS, OFTEN, REQUEST_SECONDS
from meshpki.ca.server.calls.waiting_room import (
    CALLER_LATE,
    CALLER_LEFT,
    MOST_OF_THE_LATE,
    REQUEST_LATE,
    REQUEST_MISSING,
    WITHOUT_REQUEST,
    WaitingRoom,
    without_request,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

LATE = LATE_SECONDS + 0.01


class Waiting:
    """A call that waits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.caller: object = name
        self.since = 0.0
        self.noted = False
        self.sent_away: CallRefusedError | None = None

    def send_away(self, refused: CallRefusedError) -> None:
        self.sent_away = refused


class Waits:
    """Calls that wait, at times that the test says."""

    def __init__(self, most: int, **terms: float) -> None:
        self.said: list[str] = []
        self.calls: dict[str, Waiting] = {}
        self.now = 1000.0
        account = cast("Callable[[object], Hashable]", lambda caller: str(caller).partition("-")[0])
        self.room = WaitingRoom(most, self.said.append, account=account, clock=lambda: self.now, **terms)

    def begin(self, name: str) -> bool:
        """A call that waits, on the account that its name begins with; whether the next ones may cost it its place."""
        self.calls[name] = Waiting(name)
        at_risk = self.room.enter(self.calls[name])
        self._let_go()
        return at_risk

    def request(self, name: str) -> bool:
        """Its request comes; whether it was still waited for."""
        self.room.leave(self.calls[name])
        return self.calls[name].sent_away is None

    def leave(self, name: str) -> None:
        """It ends without one."""
        self.room.leave(self.calls[name])
        self.room.unanswered(self.calls[name])

    def look(self, later: float = 0.0) -> None:
        self.now += later
        self.room.look(self.now)
        self._let_go()

    def gone(self, *names: str) -> list[str]:
        """Why these were sent away."""
        found = [self.calls[name].sent_away for name in names]
        return [each.reason if each else "" for each in found]

    def _let_go(self) -> None:
        """Whoever is sent away leaves."""
        for call in self.calls.values():
            if call.sent_away is not None and call in self.room._waits:
                self.leave(call.name)


def test_a_request_that_comes_is_handed_over_and_nobody_hears_of_it() -> None:
    waits = Waits(4)
    waits.begin("a-1")
    assert waits.request("a-1")
    waits.look(LATE)
    assert not waits.said
    assert not waits.room._patience


class Meanwhile(Waiting):
    """A call to which something happens while somebody looks since when it waits."""

    def __init__(self, happens: Callable[[], object]) -> None:
        self._happens: list[Callable[[], object]] = []
        super().__init__("a-1")
        self._happens = [happens]

    @property
    def since(self) -> float:
        if self._happens:
            self._happens.pop()()
        return self._since

    @since.setter
    def since(self, since: float) -> None:
        self._since = since


def test_a_request_that_comes_in_the_moment_of_a_look_is_served_and_its_call_not_sent_away() -> None:
    waits = Waits(4)
    call = Meanwhile(lambda: waits.room.leave(call))
    waits.room.enter(call)
    waits.look(REQUEST_SECONDS * 2)
    assert call.sent_away is None
    assert not waits.said


def test_a_call_that_two_threads_want_to_send_away_is_sent_away_once() -> None:
    waits = Waits(0, grace=-1.0)
    call = Meanwhile(lambda: waits.room.look(waits.now))
    waits.room.enter(call)
    assert waits.said == ["request_late"]


def test_who_came_since_all_was_heard_is_not_late() -> None:
    waits, heard = Waits(1), [1000.0]
    waits.room.heard = lambda now: min(now, heard[0])
    waits.begin("a-1")
    waits.begin("a-2")
    waits.look(REQUEST_SECONDS * 2)
    waits.begin("a-3")
    assert waits.gone("a-1", "a-2", "a-3") == ["", "", ""], "neither is there one too many"
    assert not waits.room._patience
    heard[0] = waits.now
    waits.look()
    assert waits.gone("a-1", "a-2", "a-3") == ["request_late", "request_late", ""]


def test_one_of_the_late_makes_no_room_before_it_could_be_heard() -> None:
    waits, heard = Waits(100), [1000.0]
    for _ in range(int(OFTEN) + 1):
        waits.room._patience.note("a", waits.now)
    waits.room.heard = lambda now: min(now, heard[0])
    for number in range(2 * MOST_OF_THE_LATE):
        waits.now += 0.001
        waits.begin(f"a-{number}")
    assert not waits.said
    heard[0] = waits.now
    waits.now += 0.001
    waits.begin("a-last")
    assert len(waits.said) == MOST_OF_THE_LATE + 1


def test_one_that_does_not_come_is_waited_for_so_long() -> None:
    waits = Waits(4)
    waits.begin("a-1")
    for _ in range(7):
        waits.look(REQUEST_SECONDS / 8)
        assert waits.room.count() == 1
    waits.look(REQUEST_SECONDS / 7)
    assert waits.gone("a-1") == ["request_late"]
    assert waits.said == ["request_late"]
    refused = waits.calls["a-1"].sent_away
    assert refused is not None
    assert refused.status is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_when_too_many_wait_the_first_have_to_go_if_they_are_late() -> None:
    waits = Waits(3)
    for name in ("a-1", "b-1", "c-1"):
        waits.begin(name)
    waits.now += LATE
    for name in ("d-1", "e-1"):
        waits.begin(name)
    assert waits.gone("a-1", "b-1") == ["request_late"] * 2
    assert waits.room.count() == 3
    waits.begin("f-1")
    assert waits.gone("c-1") == ["request_late"]
    for name in ("g-1", "h-1"):  # nobody is late any more
        waits.begin(name)
    waits.look()
    assert waits.room.count() == 5
    waits.look(LATE)
    assert waits.gone("d-1", "e-1") == ["request_late"] * 2
    assert waits.room.count() == 3


def test_without_grace_the_first_has_to_go_at_once() -> None:
    waits = Waits(2, grace=-1.0)
    for number in range(6):
        waits.begin(f"a-{number}")
    assert waits.gone("a-0", "a-1", "a-2", "a-3") == ["request_late"] * 4
    assert waits.request("a-5")


def test_for_whoever_is_late_too_often_there_is_no_patience() -> None:
    waits, often = Waits(1000), int(OFTEN)
    for number in range(often):
        waits.begin(f"a-{number}")
    waits.begin("b-1")
    waits.look(LATE)
    assert waits.room.count() == often + 1
    waits.begin("a-over")
    waits.look(LATE)
    late = [f"a-{number}" for number in range(often)]
    waits.look()  # those who were looked at before he was late once too often
    assert set(waits.gone(*late, "a-over")) == {"caller_late"}
    assert waits.room.count() == 1  # b's
    # So many at once from now on, the first of them has to go, and it is not the one whose request follows.
    for number in range(MOST_OF_THE_LATE):
        waits.begin(f"a-again-{number}")
    assert waits.room.count() == MOST_OF_THE_LATE + 1
    waits.now += 0.001
    waits.begin("a-honest")
    assert waits.gone("a-again-0") == ["caller_late"]
    assert waits.request("a-honest")
    assert waits.room.count() == MOST_OF_THE_LATE
    assert Counter(waits.said) == {"caller_late": often + 2}


def test_nobody_has_to_go_for_one_of_his_own_row() -> None:
    """Of calls that were judged together no request can have been heard before all of them are here."""
    waits = Waits(1000)
    for _ in range(int(OFTEN) + 1):
        waits.room._patience.note("a", waits.now)
    first = [f"a-first-{number}" for number in range(16)]
    for name in first:
        waits.begin(name)
    assert waits.room.count() == 16
    waits.now += 0.001
    waits.begin("a-second")
    assert waits.gone(*first) == ["caller_late"] * (16 + 1 - MOST_OF_THE_LATE) + [""] * (MOST_OF_THE_LATE - 1)
    assert waits.request("a-second")


def test_it_says_whom_the_next_row_may_cost_their_places() -> None:
    waits = Waits(1000)
    assert {waits.begin(f"a-{number}") for number in range(100)} == {False}
    for _ in range(int(OFTEN) + 1):
        waits.room._patience.note("b", waits.now)
    assert [waits.begin("a-next"), waits.begin("b-1"), waits.begin("c-1")] == [False, True, False]
    without_grace = Waits(32, grace=0.0)
    assert [without_grace.begin(f"a-{number}") for number in range(20)] == [False] * 16 + [True] * 4


def test_it_holds_whoever_waits_and_was_not_sent_away() -> None:
    waits = Waits(1, grace=0.0)
    waits.begin("a-1")
    assert waits.room.holds(waits.calls["a-1"])
    waits.now += 0.001
    waits.begin("a-2")
    assert [waits.room.holds(waits.calls[name]) for name in ("a-1", "a-2")] == [False, True]
    waits.request("a-2")
    assert not waits.room.holds(waits.calls["a-2"])


def test_after_a_while_he_is_forgiven() -> None:
    waits = Waits(1000)
    for number in range(20):
        waits.begin(f"a-{number}")
    waits.look(LATE)
    waits.look()
    assert set(waits.gone(*(f"a-{number}" for number in range(20)))) == {"caller_late"}
    waits.look(60)
    for number in range(20):
        waits.begin(f"a-later-{number}")
    waits.look()
    assert waits.room.count() == 20


@pytest.mark.parametrize(("after", "noted"), [(0.0, False), (0.1, True)])
def test_whoever_leaves_is_noted_if_he_was_waited_for(after: float, noted: bool) -> None:
    waits = Waits(10)
    waits.begin("a-1")
    waits.now += after
    waits.leave("a-1")
    assert bool(waits.room._patience) is noted


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (REQUEST_MISSING, grpc.StatusCode.INVALID_ARGUMENT),
        (CALLER_LEFT, grpc.StatusCode.CANCELLED),
        (REQUEST_LATE, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (CALLER_LATE, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ],
)
def test_how_a_call_without_a_request_ends(reason: str, status: grpc.StatusCode) -> None:
    refused = without_request(reason)
    assert (refused.status, refused.reason) == (status, reason)
    assert reason in WITHOUT_REQUEST
