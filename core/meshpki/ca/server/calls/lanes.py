"""Where calls go: the places, the waiting room and the threads of those that issue, and of those served aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.ca.server.calls.places import Places
from meshpki.ca.server.calls.waiting_room import WaitingRoom
from meshpki.ca.server.calls.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

ASIDE_PLACES: Final = 64
ASIDE_WAITING: Final = 32


@dataclass(frozen=True, slots=True)
class Lane:
    """What the calls of some methods share, and share with no others."""

    places: Places
    room: WaitingRoom
    """Where they wait for their requests."""
    workers: Workers
    """For those that have to wait for something else."""


def lane(places: int, said: Callable[[str], object], account: Callable[[object], Hashable]) -> Lane:
    """For the methods of one listener. Half of its places at most are for calls without their request.

    `said` hears why a call was sent away; `account` tells on whose account one is late: see `WaitingRoom`.
    """
    room = WaitingRoom(max(1, places // 2), said, account=account)
    return Lane(Places(places), room, Workers(places, "call"))


def aside_lane(said: Callable[[str], object]) -> Lane:
    """For methods without a credential: whoever has waited longest makes room at once, for there is no telling who is
    who, and an honest caller's request follows at once.
    """
    room = WaitingRoom(ASIDE_WAITING, said, grace=0.0)
    return Lane(Places(ASIDE_PLACES), room, Workers(ASIDE_PLACES, "aside"))
