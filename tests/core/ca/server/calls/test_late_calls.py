"""Who is late when the server itself stood still: nobody; and who is late all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshpki.ca.server.calls.late_calls import LOOK_SECONDS, LateCalls
from meshpki.ca.server.calls.patience import LATE_SECONDS, REQUEST_SECONDS
from meshpki.ca.server.calls.waiting_room import REQUEST_LATE, WaitingRoom

if TYPE_CHECKING:
    from meshpki.ca.server.calls.methods import CallRefusedError


class Waiting:
    """A call that waits."""

    caller: object = "a"
    since = 0.0
    noted = False
    sent_away: CallRefusedError | None = None

    def send_away(self, refused: CallRefusedError) -> None:
        self.sent_away = refused


class Rig:
    """Two rooms with a call in each, looked into at times that the test says."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.said: list[str] = []
        self.rooms = [WaitingRoom(4, self.said.append, account=str, clock=lambda: self.now) for _ in range(2)]
        self.calls = [Waiting(), Waiting()]
        self.late_calls = LateCalls(self.rooms, lambda: self.now)
        self.late_calls.look()
        for room, call in zip(self.rooms, self.calls, strict=True):
            room.enter(call)

    def look_after(self, *seconds: float) -> None:
        for each in seconds:
            self.now += each
            self.late_calls.look()


@pytest.mark.parametrize("still", [1.5, REQUEST_SECONDS + 0.5, 3600.0])
def test_while_the_server_stands_still_nobody_is_late(still: float) -> None:
    rig = Rig()
    rig.look_after(LOOK_SECONDS, still)
    assert not rig.said
    assert not any(call.noted for call in rig.calls)


def test_afterwards_everybody_is_again_whose_request_does_not_come() -> None:
    rig = Rig()
    rig.look_after(LOOK_SECONDS, 30.0, *[LOOK_SECONDS] * int(LATE_SECONDS / LOOK_SECONDS + 1))
    assert all(call.noted for call in rig.calls)
    rig.look_after(*[LOOK_SECONDS] * int(REQUEST_SECONDS / LOOK_SECONDS + 1))
    assert rig.said == [REQUEST_LATE] * 2


def test_a_look_that_is_a_little_late_forgives_nothing() -> None:
    """As on any busy machine: else whoever holds calls and makes it busy would be waited for longer."""
    rig = Rig()
    rig.look_after(*[LOOK_SECONDS + 0.5] * int(REQUEST_SECONDS / (LOOK_SECONDS + 0.5) + 1))
    assert rig.said == [REQUEST_LATE] * 2


def test_who_comes_while_it_stands_still_is_waited_for_no_longer_than_that_and_as_ever() -> None:
    rig, late = Rig(), Waiting()
    rig.now += 10.0
    rig.rooms[0].enter(late)
    rig.late_calls.look()
    rig.look_after(*[LOOK_SECONDS] * 50)
    assert late.sent_away is None
    rig.look_after(*[LOOK_SECONDS] * 80)
    assert late.sent_away is not None
