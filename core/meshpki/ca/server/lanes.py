"""Where calls go: the places and the waiting room of those that issue, and of those that are served aside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, TypeAlias, TypeVar

from meshpki.ca.peer import Peer
from meshpki.ca.server.call_pool import AsidePool, CallPool
from meshpki.ca.server.waiting_room import WaitingRoom
from meshpki.tokens.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Hashable

    from meshpki.ca.config import Limits
    from meshpki.ca.server.sent_away import SentAway

_Pool = TypeVar("_Pool", CallPool, AsidePool)
ASIDE_PLACES: Final = 64
ASIDE_WAITING: Final = 32
ASIDE_THREADS: Final = 40
"""For those that wait, for watchers, and some for whoever makes one of them go."""


@dataclass(frozen=True, slots=True)
class Lane(Generic[_Pool]):
    """A pool, and the room where its calls wait for their requests."""

    pool: _Pool
    room: WaitingRoom


AnyLane: TypeAlias = Lane[CallPool] | Lane[AsidePool]


def issuing_lane(limits: Limits, sent_away: SentAway) -> Lane[CallPool]:
    """For the methods of one listener. Half of its places at most are for calls without their request."""
    most = max(1, limits.in_flight // 2)
    return Lane(CallPool(limits.in_flight, "call"), WaitingRoom(most, sent_away.count, account=account))


def aside_lane(sent_away: SentAway) -> Lane[AsidePool]:
    """For methods without a credential: whoever has waited longest makes room at once, for there is no telling who is
    who, and an honest caller's request follows at once.
    """
    pool = AsidePool(ASIDE_PLACES, ASIDE_THREADS, "aside")
    return Lane(pool, WaitingRoom(ASIDE_WAITING, sent_away.count, grace=0.0))


def account(caller: object) -> Hashable:
    """On whose account a call waits: a pod's, where a token names one, else its service account's.

    Not the credential's: whoever has one can get another as often as he likes.
    """
    match caller:
        case Caller():
            return caller.cluster, caller.service_account, caller.pod.uid if caller.pod else ""
        case Peer():
            return "", caller.service_account, ""
        case _:
            return None
