"""The shell around the rotation core for ONE identity: credential, new key, the CA, and the answer onto the feed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal, Protocol

from meshpki.agent import rotation
from meshpki.agent.acceptance import accept, check_same_identity
from meshpki.agent.feed import Feed, Signal
from meshpki.agent.key_request import KeyType, new_key_request
from meshpki.agent.reporting import failure_of, report
from meshpki.hooks import Health

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.agent.ca_client import Answer
    from meshpki.agent.credential import Credential, CredentialSource
    from meshpki.agent.failure import FailureKind
    from meshpki.agent.snapshot import Snapshot

log = logging.getLogger(__name__)

LONGEST_SLEEP_SECONDS: Final = 30.0
"""A sleeping machine and a stepped clock are noticed this soon; timers know nothing of either."""


class Authority(Protocol):
    """Who signs: a CaClient, or something that stands before one to bound how many ask at a time."""

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        """Ask once. Raises a MeshpkiError."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask the CA for."""

    ttl_seconds: int
    key_type: KeyType = KeyType.EC_P256


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """How one identity stands, for metrics and readiness. Times are epoch seconds."""

    health: Health
    snapshot: Snapshot | None
    """What is being served."""
    renew_at: float
    """When the CA is asked next."""
    renewals: int
    """Certificates obtained since this keeper began."""
    failures: Mapping[FailureKind, int]
    """Failed attempts since this keeper began."""


class Keeper:
    """Keeps one identity's certificate fresh on its feed. `clock` gives epoch seconds, `chance` numbers in [0, 1)."""

    def __init__(
        self,
        wish: Wish,
        *,
        authority: Authority,
        credentials: CredentialSource,
        feed: Feed,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._wish = wish
        self._authority = authority
        self._credentials = credentials
        self._feed = feed
        self._clock = clock
        self._chance = chance
        self._state = rotation.start(clock())
        self._health = rotation.health(self._state, clock())
        self._attempt: asyncio.Task[rotation.Event] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stepped = Signal()
        self._tally = _Tally()

    @property
    def state(self) -> rotation.State:
        """Where the rotation stands."""
        return self._state

    def steps(self) -> asyncio.Future[None]:
        """Get a future that is done after the next step, whatever changed: see Signal.next."""
        return self._stepped.next()

    def health(self, now: float) -> Health:
        """Say how this identity stands at `now`."""
        return rotation.health(self._state, now)

    def status(self, now: float) -> KeeperStatus:
        """Say how this identity stands at `now`, with what metrics count."""
        return KeeperStatus(
            self.health(now), self._feed.current, self._state.due_at, self._tally.renewals, dict(self._tally.failures)
        )

    async def run(self, stopping: asyncio.Event) -> None:
        """Rotate until `stopping` is set. Raises nothing of its own: everything is waited out. The feed stays open."""
        stop = asyncio.create_task(stopping.wait())
        try:
            event: rotation.Event = rotation.Tick()
            while not stop.done():
                self._advance(event)
                event = await self._next_event(stop)
        finally:
            tasks = [task for task in (stop, self._attempt, self._watch) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _advance(self, event: rotation.Event) -> None:
        now = self._clock()
        self._state, actions = rotation.advance(self._state, event, now=now, chance=self._chance())
        self._feed.denied = self._state.failure is not None and self._state.failure.denied
        for action in actions:
            match action:
                case rotation.Ask():
                    self._attempt = asyncio.create_task(self._ask())
                case rotation.Serve(snapshot):
                    self._serve(snapshot, now)
                case rotation.Report(failure):
                    self._tally.failures[failure.kind] += 1
                    report(action, self.health(now), now)
        self._tell_health(now)
        self._stepped.wake()

    def _serve(self, snapshot: Snapshot, now: float) -> None:
        self._tally.renewals += 1
        self._feed.publish(snapshot)
        log.info(
            "a new certificate is served",
            extra={
                "spiffe_id": str(snapshot.spiffe_id),
                "serial": f"{snapshot.serial:x}",
                "not_after": snapshot.not_after,
                "renewal_in_seconds": round(self._state.renew_at - now),
            },
        )

    def _tell_health(self, now: float) -> None:
        before, self._health = self._health, self.health(now)
        if self._health is not before and self._health is Health.EXPIRED:
            log.error("the certificate has expired, and there is no other: peers refuse it from now on")

    async def _next_event(self, stop: asyncio.Task[Literal[True]]) -> rotation.Event:
        waiting: set[asyncio.Future[Literal[True]] | asyncio.Future[rotation.Event] | asyncio.Future[None]] = {stop}
        if self._attempt is not None:
            waiting.add(self._attempt)
        self._watch_credential()
        if self._watch is not None:
            waiting.add(self._watch)
        await asyncio.wait(waiting, timeout=self._sleep_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if self._attempt is not None and self._attempt.done():
            attempt, self._attempt = self._attempt, None
            return attempt.result()
        if self._watch is not None and self._watch.done():
            self._watch = None
            return rotation.TokenChanged()
        return rotation.Tick()

    def _watch_credential(self) -> None:
        """Look for another token only while one would help."""
        failure = self._state.failure
        wanted = failure is not None and failure.waits_for_token and not self._state.asking
        if wanted and self._watch is None:
            self._watch = asyncio.create_task(self._credentials.changed())
        elif not wanted and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    def _sleep_seconds(self) -> float:
        now = self._clock()
        return max(0.0, min(rotation.next_wake(self._state, now) - now, LONGEST_SLEEP_SECONDS))

    async def _ask(self) -> rotation.Event:
        """Make one attempt. Whatever goes wrong is an event: an agent that serves a certificate does not die."""
        try:
            credential = await self._credentials.read(self._clock(), self._state.snapshot)
            request = await asyncio.to_thread(new_key_request, self._wish.key_type)
            answer = await self._authority.sign(request.csr_pem, credential, self._wish.ttl_seconds)
            snapshot = accept(answer.cert_chain, request, roots_pem=answer.roots_pem, now=self._clock())
            if self._state.snapshot is not None:
                check_same_identity(self._state.snapshot, snapshot)
        except Exception as error:  # noqa: BLE001 - see above; the kinds are told apart there
            return rotation.Failed(failure_of(error))
        return rotation.Obtained(snapshot)


@dataclass(slots=True)
class _Tally:
    renewals: int = 0
    failures: Counter[FailureKind] = field(default_factory=Counter)
