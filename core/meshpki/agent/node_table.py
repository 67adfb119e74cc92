"""Node mode's table: one entry per token, opened by streams; what to do at each event, decided without a clock.

An entry's key is the SHA-256 of the very bytes of its token. No name ever finds an entry: names stand in claims that
nobody has verified, and a forged token with somebody's `sub` is another token, so it is another entry that has to be
accepted by the CA itself before anything is served from it.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NewType, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

TokenKey = NewType("TokenKey", bytes)
"""SHA-256 of a token. It tells one token from another, and gives none away."""

NEVER: Final = float("inf")
AGAIN_FRACTION: Final = 0.1
"""A client that came back with the same token is asked again after this part of what its certificate has left, ..."""
AGAIN_SECONDS: Final = 5.0
"""... or after so long, if that is more, but never after more than half of what is left, ..."""
SOONEST_AGAIN_SECONDS: Final = 1.0
"""... and whatever is left, not faster than this."""
AGAIN_JITTER: Final = 0.2


class Phase(StrEnum):
    """Where a token stands. A token without an entry is one that we know nothing of: it is gone, or never was."""

    WAITING = "waiting"
    """The CA has not accepted this token yet: nothing is served, and its streams wait."""
    SERVING = "serving"
    """The CA accepted this very token."""
    RECONNECTING = "reconnecting"
    """Accepted once, but it brings no further certificate. What is held is served while its streams come back."""


class Why(StrEnum):
    """Why a stream is turned away."""

    EXPIRED = "expired"
    DENIED = "denied"
    """The CA refused this very token."""
    STREAMS = "streams"
    """The token has as many streams as one may have."""
    FULL = "full"
    """The node has as many tokens as it may have."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node's agent takes upon itself."""

    identities: int = 2048
    """Accepted tokens. For a while a workload has two: the one it came with, and the fresh one it came back with."""
    waiting: int = 1024
    """Tokens that the CA has not accepted yet. Counted apart, so that a flood of forged ones displaces no workload."""
    waiting_streams: int = 4096
    """Of all those tokens together. Who waits holds some 100 KiB of the agent (measured), if it sends what it may."""
    streams: int = 64
    """Of one token. Envoy opens one for each secret that it names."""
    remembered: int = 1024
    """Refused tokens that are not asked about again for `refusal_seconds`."""
    refusal_seconds: float = 10.0
    grace_seconds: float = 30.0
    """How long an accepted token without a stream is kept, for an Envoy that restarts."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Serve these streams what is held for this token. The only action that gives anything to a stream."""

    key: TokenKey
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Ask the CA for a certificate with this token, and renew it."""

    key: TokenKey


@dataclass(frozen=True, slots=True)
class Halt:
    """Send this token no more; go on serving what is held."""

    key: TokenKey


@dataclass(frozen=True, slots=True)
class Stop:
    """Forget token, key and certificate."""

    key: TokenKey


@dataclass(frozen=True, slots=True)
class AskBack:
    """End these streams with a clean status: their clients come back, each with what its token file holds then."""

    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TurnAway:
    """End these streams, which were never admitted, with a refusal."""

    streams: tuple[int, ...]
    why: Why


Action: TypeAlias = Admit | Start | Halt | Stop | AskBack | TurnAway


@dataclass(slots=True)
class _Entry:
    key: TokenKey
    token_ends: float
    phase: Phase = Phase.WAITING
    streams: dict[int, float] = field(default_factory=dict)
    """When to ask each back; NEVER for one that is not to be asked, or was."""
    certificate_ends: float = 0.0
    idle_since: float = 0.0
    """When the last stream left; meaningless while there is one."""


class NodeTable:
    """Every method is an event, takes the time in epoch seconds, and returns what to do, in order."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._entries: dict[TokenKey, _Entry] = {}
        self._waiting = 0
        self._waiting_streams = 0
        self._denied: dict[TokenKey, float] = {}
        """Refused tokens and until when, oldest first."""
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
        if self._is_denied(key, now):
            return [TurnAway((stream,), Why.DENIED)]
        entry = self._entries.get(key)
        if entry is None:
            return self._begin(key, ends, stream)
        if len(entry.streams) >= self._limits.streams:
            return [TurnAway((stream,), Why.STREAMS)]
        if entry.phase is Phase.WAITING and self._waiting_streams >= self._limits.waiting_streams:
            return [TurnAway((stream,), Why.FULL)]
        entry.streams[stream] = NEVER
        if entry.phase is Phase.WAITING:
            self._waiting_streams += 1
            return []
        if entry.phase is Phase.RECONNECTING:
            # Its client has nothing fresher yet. It is served, and asked again before what is held ends.
            self._ask_later(entry, stream, now, chance)
        return [Admit(key, (stream,))]

    def _begin(self, key: TokenKey, ends: float, stream: int) -> list[Action]:
        limits, accepted = self._limits, len(self._entries) - self._waiting
        crowded = self._waiting >= limits.waiting or self._waiting_streams >= limits.waiting_streams
        if crowded or accepted >= limits.identities:
            return [TurnAway((stream,), Why.FULL)]
        self._entries[key] = _Entry(key, ends, streams={stream: NEVER})
        self._waiting += 1
        self._waiting_streams += 1
        return [Start(key)]

    def leave(self, key: TokenKey, stream: int, *, now: float) -> list[Action]:
        """A stream has ended, whoever ended it. A token that nobody has accepted goes with its last stream."""
        entry = self._entries.get(key)
        if entry is None or entry.streams.pop(stream, None) is None:
            return []
        if entry.phase is Phase.WAITING:
            self._waiting_streams -= 1
        if entry.streams:
            return []
        if entry.phase is Phase.WAITING or entry.token_ends <= now:
            return [self._forget(entry)]
        entry.idle_since = now
        self._look_again(entry, min(now + self._limits.grace_seconds, entry.token_ends))
        return []

    def accepted(self, key: TokenKey, certificate_ends: float, *, now: float) -> list[Action]:
        """The CA issued for this very token: the first time, or again.

        A token whose second certificate ends no later than its first brings nothing more: a CA that clamps to the
        token's life would else be asked ever faster towards its end.
        """
        entry = self._entries.get(key)
        if entry is None:
            return []
        before, entry.certificate_ends = entry.certificate_ends, certificate_ends
        match entry.phase:
            case Phase.WAITING:
                self._waiting -= 1
                self._waiting_streams -= len(entry.streams)
                entry.phase = Phase.SERVING
                return [Admit(key, tuple(entry.streams))]
            case Phase.SERVING if certificate_ends <= before:
                return self.spent(key, now=now)
        return []

    def refused(self, key: TokenKey, *, now: float) -> list[Action]:
        """The CA refused this token. One that it had accepted before is worth a fresh one, for nothing is lost."""
        entry = self._entries.get(key)
        if entry is None:
            return []
        if entry.phase is not Phase.WAITING:
            return self.spent(key, now=now)
        self._remember(key, now)
        return [TurnAway(tuple(entry.streams), Why.DENIED), self._forget(entry)]

    def spent(self, key: TokenKey, *, now: float) -> list[Action]:
        """A certificate is due, and this token will not bring it: its clients are asked back for a fresh one."""
        entry = self._entries.get(key)
        if entry is None or entry.phase is Phase.RECONNECTING:
            return []
        if entry.phase is Phase.WAITING:  # expired while the CA was away: any status makes its clients come back
            return [TurnAway(tuple(entry.streams), Why.EXPIRED), self._forget(entry)]
        asked = self._ask_back(entry, entry.streams)
        if entry.certificate_ends <= now:
            return [*asked, self._forget(entry)]
        entry.phase = Phase.RECONNECTING
        self._look_again(entry, entry.certificate_ends)
        return [*asked, Halt(key)]

    def tick(self, *, now: float) -> list[Action]:
        """Look at what is due."""
        actions: list[Action] = []
        while self._due and self._due[0][0] <= now:
            _, _, key = heapq.heappop(self._due)
            if (entry := self._entries.get(key)) is not None:
                actions += self._examine(entry, now)
        return actions

    def _examine(self, entry: _Entry, now: float) -> list[Action]:
        over = entry.phase is Phase.RECONNECTING and entry.certificate_ends <= now
        idle = not entry.streams and (now >= entry.idle_since + self._limits.grace_seconds or now >= entry.token_ends)
        due = entry.streams if over else [stream for stream, when in entry.streams.items() if when <= now]
        asked = self._ask_back(entry, due)
        return [*asked, self._forget(entry)] if over or idle else asked

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

    def _forget(self, entry: _Entry) -> Stop:
        del self._entries[entry.key]
        if entry.phase is Phase.WAITING:
            self._waiting -= 1
            self._waiting_streams -= len(entry.streams)
        return Stop(entry.key)

    def _is_denied(self, key: TokenKey, now: float) -> bool:
        until = self._denied.get(key)
        if until is None:
            return False
        # A clock set back must not make the memory endless.
        if now < until <= now + self._limits.refusal_seconds:
            return True
        del self._denied[key]
        return False

    def _remember(self, key: TokenKey, now: float) -> None:
        self._denied.pop(key, None)
        while len(self._denied) >= self._limits.remembered:
            del self._denied[next(iter(self._denied))]
        self._denied[key] = now + self._limits.refusal_seconds
