"""Node mode: one agent for many workloads. Each stream brings its own token, and gets what the CA gave for that one."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import grpc

from meshpki.agent.node.actions import Admit, AskBack, Halt, Phase, Start, Stop, TurnAway, Why
from meshpki.agent.node.identity import NodeIdentity
from meshpki.agent.node.table import NodeTable
from meshpki.agent.node.token import ISTIO_HEADER, token_of
from meshpki.agent.node.turns import Turns
from meshpki.agent.renewal.ledger import Ledger
from meshpki.agent.renewal.reporting import reports_of_many
from meshpki.agent.rotation.feed import Feed
from meshpki.agent.socket.sessions import CallRefusedError
from meshpki.runtime.clock_watch import ClockWatch
from meshpki.runtime.wakeup import Signal
from meshpki.tokens.reasons import TokenRefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from meshpki.agent.node.actions import Action, TokenKey
    from meshpki.agent.node.cache_line import NodeCacheLine
    from meshpki.agent.node.identity import Ca
    from meshpki.agent.node.limits import Limits
    from meshpki.agent.node.token import StreamToken
    from meshpki.agent.renewal.keeper import ConfiguredRoots, Held, Wish
    from meshpki.agent.renewal.ledger import Count
    from meshpki.agent.rotation.machine import State
    from meshpki.agent.socket.sessions import Metadata

log = logging.getLogger(__name__)

LONGEST_SLEEP_SECONDS: Final = 30.0
"""A sleeping machine and a stepped clock are noticed this soon."""
_STATUS: Final = {
    Why.EXPIRED: (grpc.StatusCode.UNAUTHENTICATED, "the token of this call is not accepted"),
    Why.DENIED: (grpc.StatusCode.UNAUTHENTICATED, "the token of this call is not accepted"),
    Why.STREAMS: (grpc.StatusCode.RESOURCE_EXHAUSTED, "this token has too many streams"),
    Why.FULL: (grpc.StatusCode.RESOURCE_EXHAUSTED, "the agent is busy"),
    Why.CROWDED: (grpc.StatusCode.RESOURCE_EXHAUSTED, "the agent is busy"),
}
"""All that a client is told. Why the CA refused stands in our log and in the CA's, not here."""

_CALLS: Final = {
    Why.EXPIRED: "call_with_expired_token",
    Why.DENIED: "call_with_refused_token",
    Why.STREAMS: "call_beyond_streams",
    Why.FULL: "call_beyond_identities",
    Why.CROWDED: "call_beyond_waiting",
}
MOST_REASONS: Final = 64
MOST_GONE: Final = 64
"""Counts of identities that are gone, until somebody reads them."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How one accepted token stands: for the status file and metrics. Only what the CA has said of it is in it."""

    phase: Phase
    streams: int
    identity: NodeIdentity


class NodeSessions:
    """Sessions by token, over the decisions of a NodeTable. `clock` gives epoch seconds, `chance` numbers in [0, 1)."""

    def __init__(
        self,
        wish: Wish,
        ca: Ca,
        roots: ConfiguredRoots,
        limits: Limits,
        *,
        at_once: int,
        header: str = ISTIO_HEADER,
        cache: NodeCacheLine | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._wish = wish
        self._ca = ca
        self._roots = roots
        self._header = header
        self._cache = cache
        self._clock = clock
        self._chance = chance
        self._table = NodeTable(limits)
        self._turns = Turns(at_once)
        self._identities: dict[TokenKey, NodeIdentity] = {}
        self._streams: dict[int, _NodeSession] = {}
        self._numbers = itertools.count(1)
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self._many = reports_of_many()
        self._ledger = Ledger()
        self._refused: Counter[str] = Counter()
        self._moved = Signal()
        self._planned = float("inf")
        self._clock_watch = ClockWatch(clock)
        self._sooner = Signal()

    @property
    def turns(self) -> Turns:
        """Who asks the CA now, and who waits for it."""
        return self._turns

    def moves(self) -> asyncio.Future[None]:
        """Get a future that is done after the next change of anything that `standings` says: see Signal.next."""
        return self._moved.next()

    def phases(self) -> dict[Phase, int]:
        """How many tokens stand where."""
        return self._table.phases()

    def refused(self) -> Mapping[str, int]:
        """How many were refused so far, by reason: tokens in the CA's word, calls in ours."""
        return dict(self._refused)

    def _count(self, reason: str, times: int = 1) -> None:
        known = reason in self._refused or len(self._refused) < MOST_REASONS
        self._refused[reason if known else "others"] += times
        self._moved.wake()

    def standings(self) -> list[Standing]:
        """Every token that the CA has accepted."""
        return [
            Standing(phase, self._table.streams(key), identity)
            for key, identity in self._identities.items()
            if (phase := self._table.phase(key)) and phase is not Phase.WAITING
        ]

    def unanswered(self) -> list[State]:
        """Where tokens stand that wait for the CA's word, each that has asked in vain."""
        waiting = [one for key, one in self._identities.items() if self._table.phase(key) is Phase.WAITING]
        return [state for one in waiting if (state := one.keeper.state).failure is not None]

    def counts(self) -> Mapping[str, Count]:
        """What was obtained and what failed, of identities that are there, and of tokens without one."""
        self._forget_gone()
        return self._ledger.counts()

    def _forget_gone(self) -> None:
        held = [one.keeper.state.snapshot for one in self._identities.values()]
        self._ledger.keep_only({str(snapshot.spiffe_id) for snapshot in held if snapshot is not None})

    async def open(self, metadata: Metadata) -> _NodeSession:
        """Wait until the CA has accepted the caller's token, however long the CA is away. Raises CallRefusedError."""
        if self._closed:
            raise _stopping()
        try:
            token = token_of(metadata, self._header)
        except TokenRefusedError as error:
            self._count(error.reason.value)
            status, reason = grpc.StatusCode.UNAUTHENTICATED, error.reason.value
            raise CallRefusedError(status, error.seen, wanted=error.wanted, reason=reason) from error
        session = _NodeSession(self, token.key, next(self._numbers))
        self._streams[session.number] = session
        try:
            self._begin(session, token)
            await session.admission
        except BaseException:
            session.close()
            del session, token  # the refusal is in the session, and its traceback holds this frame: no cycle of them
            raise
        return session

    def _begin(self, session: _NodeSession, token: StreamToken) -> None:
        now = self._clock()
        actions = self._table.open(token.key, token.ends, session.number, now=now, chance=self._chance())
        if token.key not in self._identities and self._table.phase(token.key) is Phase.WAITING:
            self._identities[token.key] = NodeIdentity(
                token,
                self._wish,
                self._ca,
                self._turns,
                self._roots,
                many=self._many,
                ledger=self._ledger,
                clock_jumps=self._clock_watch.jumps,
                clock=self._clock,
                chance=self._chance,
            )
        self._perform(actions)

    def left(self, session: _NodeSession) -> None:
        """A session is closed: once."""
        if self._streams.pop(session.number, None) is not None:
            self._perform(self._table.leave(session.key, session.number, now=self._clock()))

    def close(self) -> None:
        """Let every stream end with status OK, and turn away who still waits."""
        self._closed = True
        for session in self._streams.values():
            if not session.admission.done():
                session.admission.set_exception(_stopping())
        for identity in self._identities.values():
            identity.feed.close()

    async def run(self, stopping: asyncio.Event) -> None:
        """Do what time brings, until `stopping` is set; then end every keeper."""
        stop = asyncio.create_task(stopping.wait())
        try:
            while not stop.done():
                self._clock_watch.look()
                if self._cache is not None:
                    self._cache.tidy(self._clock())
                    self._keep_owed(self._cache)
                self._perform(self._table.tick(now=self._clock()))
                self._planned = self._table.next_wake()
                patience = max(0.0, min(self._planned - self._clock(), LONGEST_SLEEP_SECONDS))
                waiting: set[asyncio.Future[Literal[True]] | asyncio.Future[None]] = {stop, self._sooner.next()}
                await asyncio.wait(waiting, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            self._closed = True
            for identity in self._identities.values():
                self._end(identity)
            await asyncio.gather(stop, *self._ending, return_exceptions=True)
            if self._cache is not None:
                await asyncio.to_thread(self._cache.close)

    def _perform(self, actions: Iterable[Action]) -> None:
        for action in actions:
            match action:
                case Start(key):
                    identity = self._identities[key]
                    identity.start(self._asks, self._stepped, self._spent, self._earlier(identity))
                case Admit(key, streams):
                    self._admit(self._identities[key].feed, streams)
                case Halt(key):
                    self._identities[key].halt()
                case Stop(key):
                    identity = self._identities.pop(key)
                    self._end(identity)
                    identity.feed.close()
                    if len(self._ledger) > len(self._identities) + MOST_GONE:
                        self._forget_gone()
                case AskBack(streams):
                    self._ask_back(streams)
                case TurnAway(streams, why):
                    self._turn_away(streams, why)
        self._moved.wake()
        if self._table.next_wake() < self._planned:
            self._sooner.wake()

    def _asks(self, identity: NodeIdentity) -> None:
        """It is this token's turn with the CA."""
        self._perform(self._table.asks(identity.key, now=self._clock()))

    def _stepped(self, identity: NodeIdentity) -> None:
        """A keeper has taken a step: a certificate, a refusal, or something that the table need not know."""
        key, state, now = identity.key, identity.keeper.state, self._clock()
        if identity.is_new_certificate():
            assert state.snapshot is not None
            if self._cache is not None and not identity.keeper.resumed:
                self._cache.keep(key, identity.ends, identity.keeper.held(), now)
            self._perform(self._table.accepted(key, state.snapshot.not_after, now=now))
        elif state.failure is not None and state.failure.denied:
            if self._cache is not None:
                self._cache.drop(key)
            if identity.is_new_refusal():
                self._count(state.failure.reason)
            self._perform(self._table.refused(key, now=now))
        elif state.failure is not None and not state.asking:
            self._perform(self._table.unanswered(key, now=now))
        else:
            self._moved.wake()

    def _keep_owed(self, cache: NodeCacheLine) -> None:
        """Try anew what the disk did not take."""
        now = self._clock()
        for key in cache.owed(now):
            if (identity := self._identities.get(key)) is None:
                cache.give_up(key)
            else:
                cache.keep(key, identity.ends, identity.keeper.held(), now)

    def _earlier(self, identity: NodeIdentity) -> Callable[[], Awaitable[Held | None]] | None:
        """What reads what the CA gave an earlier run for this very token. Without a cache: nothing."""
        if self._cache is None:
            return None
        return self._cache.earlier(identity.key, identity.ends, self._roots.current, self._clock())

    def _spent(self, identity: NodeIdentity) -> None:
        """A renewal is due, and this token has expired or will in a moment."""
        self._perform(self._table.spent(identity.key, now=self._clock()))

    def _admit(self, feed: Feed, streams: Iterable[int]) -> None:
        for session in self._sessions(streams):
            session.admit(feed)

    def _ask_back(self, streams: tuple[int, ...]) -> None:
        for session in self._sessions(streams):
            if not session.must_reconnect.done():
                session.must_reconnect.set_result(None)
        log.debug("clients are asked to come back with a fresh token", extra={"streams": len(streams)})

    def _turn_away(self, streams: Iterable[int], why: Why) -> None:
        for session in self._sessions(streams):
            if not session.admission.done():
                self._count(_CALLS[why])
                session.admission.set_exception(CallRefusedError(*_STATUS[why], reason=_CALLS[why]))

    def _sessions(self, streams: Iterable[int]) -> list[_NodeSession]:
        return [session for number in streams if (session := self._streams.get(number)) is not None]

    def _end(self, identity: NodeIdentity) -> None:
        for task in identity.end():
            if not task.done():
                self._ending.add(task)
                task.add_done_callback(self._ending.discard)


class _NodeSession:
    """One stream's session: nothing until it is admitted, then the feed of its own token."""

    __slots__ = ("_feed", "_must_reconnect", "_node", "admission", "key", "number")

    def __init__(self, node: NodeSessions, key: TokenKey, number: int) -> None:
        loop = asyncio.get_running_loop()
        self._node = node
        self._feed: Feed | None = None
        self.key = key
        self.number = number
        self.admission: asyncio.Future[None] = loop.create_future()
        self._must_reconnect: asyncio.Future[None] = loop.create_future()

    @property
    def feed(self) -> Feed:
        """The snapshots for the stream's own token."""
        assert self._feed is not None, "only an admitted session is given away"
        return self._feed

    @property
    def must_reconnect(self) -> asyncio.Future[None]:
        """See Session."""
        return self._must_reconnect

    def admit(self, feed: Feed) -> None:
        """Serve it from this feed."""
        if not self.admission.done():
            self._feed = feed
            self.admission.set_result(None)

    def close(self) -> None:
        """See Session."""
        if not self.admission.cancel() and not self.admission.cancelled():
            self.admission.exception()  # looked at, so that nobody says it never was
        self._must_reconnect.cancel()
        self._node.left(self)


def _stopping() -> CallRefusedError:
    return CallRefusedError(grpc.StatusCode.UNAVAILABLE, "the agent is stopping")
