"""Node mode's table: one entry per token, opened by streams; what to do at each event, decided without a clock.

An entry's key is the SHA-256 of the very bytes of its token. No name ever finds an entry: names stand in claims that
nobody has verified, and a forged token with somebody's `sub` is another token, so it is another entry that has to be
accepted by the CA itself before anything is served from it.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.agent.node.actions import Admit, AskBack, Halt, Phase, Start, Stop, TokenKey, TurnAway, Why

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.agent.node.actions import Action
    from meshpki.agent.node.limits import Limits

NEVER: Final = float("inf")
AGAIN_FRACTION: Final = 0.1
"""A client that came back with the same token is asked again after this part of what its certificate has left, ..."""
AGAIN_SECONDS: Final = 5.0
"""... or after so long, if that is more, but never after more than half of what is left, ..."""
SOONEST_AGAIN_SECONDS: Final = 1.0
"""... and whatever is left, not faster than this."""
AGAIN_JITTER: Final = 0.2
CLAMP_SECONDS: Final = 60.0
"""A certificate that ends so near to its token was cut to the token's life: no later question gains more."""


@dataclass(slots=True)
class _Entry:
    key: TokenKey
    token_ends: float
    starts_at: float = 0.0
    """Not before then the CA is asked: it was asked about this very token a moment ago."""
    phase: Phase = Phase.WAITING
    started: bool = False
    asking: bool = False
    """A question is with the CA. Only kept while it waits: who leaves then is not forgotten before the answer."""
    asked_at: float = float("-inf")
    place: int = 0
    """Among those that wait."""
    spent: bool = False
    streams: dict[int, float] = field(default_factory=dict)
    """When to ask each back; NEVER for one that is not to be asked, or was."""
    certificate_ends: float = 0.0
    idle_since: float = 0.0
    """When the last stream left; meaningless while there is one."""


@dataclass(frozen=True, slots=True)
class _Recent:
    until: float
    denied: bool
    """The CA refused; else nobody waited for its answer any more."""


class NodeTable:
    """Every method is an event, takes the time in epoch seconds, and returns what to do, in order."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: dict[TokenKey, _Entry] = {}
        self._waiting: list[_Entry] = []
        """In no order: each knows its place."""
        self._recent: dict[TokenKey, _Recent] = {}
        """Tokens without an entry that the CA was asked about a moment ago, the one of the oldest question first."""
        self._waiting_streams = 0
        self._due: list[tuple[float, int, TokenKey]] = []
        """A heap of moments at which an entry is to be looked at. One that no longer applies does nothing."""
        self._count = itertools.count()

    def phase(self, key: TokenKey) -> Phase | None:
        """Where a token stands; None for one that we know nothing of."""
        entry = self._entries.get(key)
        return entry.phase if entry else None

    def streams(self, key: TokenKey) -> int:
        """How many streams a token has."""
        entry = self._entries.get(key)
        return len(entry.streams) if entry else 0

    def phases(self) -> dict[Phase, int]:
        """How many tokens stand where."""
        counts = dict.fromkeys(Phase, 0)
        for entry in self._entries.values():
            counts[entry.phase] += 1
        return counts

    def next_wake(self) -> float:
        """When `tick` has to be called next; NEVER if nothing is to come."""
        return self._due[0][0] if self._due else NEVER

    def open(self, key: TokenKey, token_ends: float | None, stream: int, *, now: float, chance: float) -> list[Action]:
        """Take a new stream with this token. `token_ends` is what the token says of itself, for patience only."""
        ends = NEVER if token_ends is None else token_ends
        if ends <= now:
            return [TurnAway((stream,), Why.EXPIRED)]
        entry = self._entries.get(key)
        if entry is None:
            return self._begin(key, ends, stream, now, chance)
        if len(entry.streams) >= self._limits.streams:
            return [TurnAway((stream,), Why.STREAMS)]
        if entry.phase is Phase.WAITING and self._waiting_streams >= self._limits.waiting_streams:
            return [TurnAway((stream,), Why.CROWDED)]
        entry.streams[stream] = NEVER
        if entry.phase is Phase.WAITING:
            self._waiting_streams += 1
            return []
        if entry.phase is Phase.RECONNECTING:
            # Its client has nothing fresher yet. It is served, and asked again before what is held ends.
            self._ask_later(entry, stream, now, chance)
        return [Admit(key, (stream,))]

    def _begin(self, key: TokenKey, ends: float, stream: int, now: float, chance: float) -> list[Action]:
        recent = self._asked_of_late(key, now)
        if recent is not None and recent.denied:
            return [TurnAway((stream,), Why.DENIED)]
        if len(self._entries) - len(self._waiting) >= self._limits.identities:
            return [TurnAway((stream,), Why.FULL)]
        room = self._make_room(now, chance)
        if room is None:
            return [TurnAway((stream,), Why.CROWDED)]
        entry = _Entry(key, ends, recent.until if recent else now, place=len(self._waiting), streams={stream: NEVER})
        self._entries[key] = entry
        self._waiting.append(entry)
        self._waiting_streams += 1
        return [*room, *self._start(entry, now)]

    def _start(self, entry: _Entry, now: float) -> list[Action]:
        if entry.starts_at > now:
            self._look_again(entry, entry.starts_at)
            return []
        entry.started = True
        self._recent.pop(entry.key, None)
        return [Start(entry.key)]

    def _make_room(self, now: float, chance: float) -> list[Action] | None:
        """Take a place from one of those that wait, where there is none; None when all of them are with the CA.

        By lot: whoever holds most of the places loses most of them, and cannot choose whom it drives out.
        """
        places = len(self._waiting)
        if places < self._limits.waiting and self._waiting_streams < self._limits.waiting_streams:
            return []
        lot = int(chance * places)
        for number in range(places):  # those that are with the CA are a handful
            entry = self._waiting[(lot + number) % places]
            if not entry.asking:
                return [TurnAway(tuple(entry.streams), Why.CROWDED), self._forget(entry, now)]
        return None

    def leave(self, key: TokenKey, stream: int, *, now: float) -> list[Action]:
        """A stream has ended, whoever ended it. A token that nobody has accepted goes with its last stream.

        Unless it is with the CA at the moment: the answer is waited for, so that nobody makes the CA be asked faster by
        going and coming.
        """
        entry = self._entries.get(key)
        if entry is None or entry.streams.pop(stream, None) is None:
            return []
        if entry.phase is Phase.WAITING:
            self._waiting_streams -= 1
        if entry.streams:
            return []
        if entry.phase is Phase.WAITING and entry.asking:
            return []
        if entry.phase is Phase.WAITING or entry.token_ends <= now:
            return [self._forget(entry, now)]
        self._idle(entry, now)
        return []

    def asks(self, key: TokenKey, *, now: float) -> list[Action]:
        """It is this token's turn: a question goes to the CA. Ends with `accepted`, `refused` or `unanswered`."""
        entry = self._entries.get(key)
        if entry is not None and entry.phase is Phase.WAITING:
            entry.asking, entry.asked_at = True, now
        return []

    def unanswered(self, key: TokenKey, *, now: float) -> list[Action]:
        """The CA gave no verdict. It is asked again, as long as there is a stream that waits for it."""
        entry = self._entries.get(key)
        if entry is None or not entry.asking:
            return []
        entry.asking = False
        return [] if entry.streams else [self._forget(entry, now)]

    def accepted(self, key: TokenKey, certificate_ends: float, *, now: float) -> list[Action]:
        """The CA issued for this very token: the first time, or again. That heals a refusal.

        A token whose second certificate ends no later than its first, and with the token, brings nothing more: a CA
        that clamps to the token's life would else be asked ever faster towards its end.
        """
        entry = self._entries.get(key)
        if entry is None:
            return []
        before, entry.certificate_ends = entry.certificate_ends, certificate_ends
        if entry.phase is Phase.WAITING:
            return self._admit(entry, now)
        if entry.spent:  # asked before it was
            self._look_again(entry, certificate_ends)
            return []
        if entry.phase is Phase.RECONNECTING:
            entry.phase = Phase.SERVING
            entry.streams = dict.fromkeys(entry.streams, NEVER)
        clamped = abs(certificate_ends - entry.token_ends) <= CLAMP_SECONDS
        return self.spent(key, now=now) if clamped and certificate_ends <= before else []

    def _admit(self, entry: _Entry, now: float) -> list[Action]:
        entry.asking = False
        entry.phase = Phase.SERVING
        self._give_up_place(entry)
        if entry.streams:
            return [Admit(entry.key, tuple(entry.streams))]
        self._idle(entry, now)
        return []

    def refused(self, key: TokenKey, *, now: float) -> list[Action]:
        """The CA refused this token. One that it had accepted before goes on, and its clients are asked back, once.

        For a fresh token helps if the verdict is right; if it is wrong (a CA without its keys yet, a clock), a later
        question heals it.
        """
        entry = self._entries.get(key)
        if entry is None:
            return []
        if entry.phase is Phase.WAITING:
            turned = [TurnAway(tuple(entry.streams), Why.DENIED)] if entry.streams else []
            return [*turned, self._forget(entry, now, denied=True)]
        if entry.certificate_ends <= now:
            return [*self._ask_back(entry, entry.streams), self._forget(entry, now, denied=True)]
        return self._doubt(entry)

    def _doubt(self, entry: _Entry) -> list[Action]:
        if entry.phase is Phase.RECONNECTING:  # asked back already; who came back since has a moment of their own
            return []
        entry.phase = Phase.RECONNECTING
        self._look_again(entry, entry.certificate_ends)
        return self._ask_back(entry, entry.streams)

    def spent(self, key: TokenKey, *, now: float) -> list[Action]:
        """A certificate is due, and this token will not bring it: its clients are asked back for a fresh one."""
        entry = self._entries.get(key)
        if entry is None or entry.spent:
            return []
        if entry.phase is Phase.WAITING:  # expired while the CA was away: any status makes its clients come back
            return [TurnAway(tuple(entry.streams), Why.EXPIRED), self._forget(entry, now)]
        if entry.certificate_ends <= now:
            return [*self._ask_back(entry, entry.streams), self._forget(entry, now)]
        entry.spent = True
        return [*self._doubt(entry), Halt(key)]

    def tick(self, *, now: float) -> list[Action]:
        """Look at what is due."""
        actions: list[Action] = []
        while self._due and self._due[0][0] <= now:
            _, _, key = heapq.heappop(self._due)
            if (entry := self._entries.get(key)) is not None:
                actions += self._examine(entry, now)
        return actions

    def _examine(self, entry: _Entry, now: float) -> list[Action]:
        if entry.phase is Phase.WAITING:
            return [] if entry.started else self._start(entry, now)
        over = entry.phase is Phase.RECONNECTING and entry.certificate_ends <= now
        idle = not entry.streams and (now >= entry.idle_since + self._limits.grace_seconds or now >= entry.token_ends)
        due = entry.streams if over else [stream for stream, when in entry.streams.items() if when <= now]
        asked = self._ask_back(entry, due)
        return [*asked, self._forget(entry, now)] if over or idle else asked

    def _idle(self, entry: _Entry, now: float) -> None:
        entry.idle_since = now
        self._look_again(entry, min(now + self._limits.grace_seconds, entry.token_ends))

    def _ask_back(self, entry: _Entry, streams: Iterable[int]) -> list[Action]:
        asked = tuple(streams)
        entry.streams |= dict.fromkeys(asked, NEVER)
        return [AskBack(asked)] if asked else []

    def _ask_later(self, entry: _Entry, stream: int, now: float, chance: float) -> None:
        left = entry.certificate_ends - now
        spread = 1 + AGAIN_JITTER * (2 * chance - 1)
        wait = min(max(left * AGAIN_FRACTION * spread, AGAIN_SECONDS), left / 2)
        entry.streams[stream] = when = now + max(wait, SOONEST_AGAIN_SECONDS)
        self._look_again(entry, when)

    def _look_again(self, entry: _Entry, when: float) -> None:
        if when < NEVER:
            heapq.heappush(self._due, (when, next(self._count), entry.key))

    def _forget(self, entry: _Entry, now: float, *, denied: bool = False) -> Stop:
        del self._entries[entry.key]
        waited = entry.phase is Phase.WAITING
        if waited:
            self._give_up_place(entry)
        until = (now if denied else entry.asked_at) + self._limits.refusal_seconds
        if denied or (waited and entry.started and until > now):
            self._remember(entry.key, _Recent(until, denied))
        return Stop(entry.key)

    def _give_up_place(self, entry: _Entry) -> None:
        self._waiting_streams -= len(entry.streams)
        last = self._waiting.pop()
        if last is not entry:
            self._waiting[entry.place] = last
            last.place = entry.place

    def _asked_of_late(self, key: TokenKey, now: float) -> _Recent | None:
        recent = self._recent.get(key)
        # A clock set back must not make the memory endless.
        if recent is None or now < recent.until <= now + self._limits.refusal_seconds:
            return recent
        del self._recent[key]
        return None

    def _remember(self, key: TokenKey, recent: _Recent) -> None:
        self._recent.pop(key, None)
        while len(self._recent) >= self._limits.remembered:
            del self._recent[next(iter(self._recent))]
        self._recent[key] = recent
