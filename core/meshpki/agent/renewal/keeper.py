"""The shell around the rotation core for ONE identity: credential, new key, the CA, and the answer onto the feed."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

from meshpki.agent.renewal.ledger import UNNAMED, Ledger
from meshpki.agent.renewal.reporting import failure_of, report
from meshpki.agent.rotation import machine as rotation
from meshpki.agent.rotation.acceptance import accept, check_same_identity, is_trusted
from meshpki.agent.rotation.bundle import Bundle, pem_of, read_roots
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.health import Health
from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from meshpki.agent.renewal.ca_client import Answer
    from meshpki.agent.renewal.credential import Credential, CredentialSource
    from meshpki.agent.rotation.bundle import Roots
    from meshpki.agent.rotation.failure import Failure, FailureKind
    from meshpki.agent.rotation.feed import Feed
    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.runtime.repeats import Repeats

log = logging.getLogger(__name__)

LONGEST_SLEEP_SECONDS: Final = 30.0
"""A sleeping machine and a stepped clock are noticed this soon, where nobody else looks: timers know nothing of it."""


class Authority(Protocol):
    """Who signs: a CaClient, or something that stands before one to bound how many ask at a time."""

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        """Ask once. Raises a MeshpkiError."""
        ...


class ConfiguredRoots(Protocol):
    """The roots that the operator configured, as they are now: a RootsFile."""

    @property
    def current(self) -> Roots:
        """Empty while there are none."""
        ...

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done at the next change: see Signal.next."""
        ...

    def refresh(self) -> None:
        """Look again, cheaply."""
        ...


@dataclass(frozen=True, slots=True)
class Wish:
    """What to ask the CA for."""

    ttl_seconds: int
    key_type: KeyType = KeyType.EC_P256


@dataclass(frozen=True, slots=True)
class Held:
    """What an agent can go on with after a restart."""

    snapshot: Snapshot
    """Its `bundle_pem` are the roots that came with the CA's last answer, without the configured ones."""
    renew_at: float
    """When its renewal was planned."""


@dataclass(frozen=True, slots=True)
class KeeperStatus:
    """How one identity stands, for metrics and readiness. Times are epoch seconds."""

    health: Health
    snapshot: Snapshot | None
    """What is being served."""
    bundle: Bundle
    """The roots that are served with it, and how often they have changed."""
    renew_at: float
    """When the CA is asked next."""
    failure: Failure | None = None
    """Why the last attempt failed; None after one that did not."""
    failing_since: float = 0.0
    """When the first failure since the last success came."""


class Keeper:
    """Keeps one identity's certificate fresh on its feed. `clock` gives epoch seconds, `chance` numbers in [0, 1).

    `many` says why renewals fail, where there are many keepers; without it, every failure is a warning. `ledger` is
    what counts for all keepers of a process.

    With `clock_jumps` (see ClockWatch.jumps) it sleeps until something is due; without, it looks at the clock itself.
    """

    def __init__(
        self,
        wish: Wish,
        *,
        authority: Authority,
        credentials: CredentialSource,
        feed: Feed,
        roots: ConfiguredRoots,
        held: Held | None = None,
        many: Mapping[FailureKind, Repeats] | None = None,
        ledger: Ledger | None = None,
        clock_jumps: Callable[[], asyncio.Future[None]] | None = None,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._wish = wish
        self._authority = authority
        self._credentials = credentials
        self._feed = feed
        self._clock = clock
        self._chance = chance
        self._roots = roots
        self._many = many
        self._clock_jumps = clock_jumps
        self._bundle = Bundle().with_configured(self._roots.current)
        self._state = rotation.start(clock())
        self._resumed = False
        self._health = rotation.health(self._state, clock())
        self._attempt: asyncio.Task[rotation.Event] | None = None
        self._watch: asyncio.Task[None] | None = None
        self._stepped = Signal()
        self._ledger = ledger if ledger is not None else Ledger()
        if held is not None:
            self.resume(held)

    @property
    def state(self) -> rotation.State:
        """Where the rotation stands."""
        return self._state

    @property
    def bundle(self) -> Bundle:
        """The roots that are served, and how often they have changed."""
        return self._bundle

    @property
    def resumed(self) -> bool:
        """Whether what is served is an earlier run's, and no answer of the CA has taken its place yet."""
        return self._resumed

    def steps(self) -> asyncio.Future[None]:
        """Get a future that is done after the next step, whatever changed: see Signal.next."""
        return self._stepped.next()

    def health(self, now: float) -> Health:
        """Say how this identity stands at `now`."""
        return rotation.health(self._state, now)

    def status(self, now: float) -> KeeperStatus:
        """Say how this identity stands at `now`."""
        return KeeperStatus(
            health=self.health(now),
            snapshot=self._feed.current,
            bundle=self._bundle,
            renew_at=self._state.due_at,
            failure=self._state.failure,
            failing_since=self._state.failing_since,
        )

    def held(self) -> Held | None:
        """Give what a later run of this agent could go on with; None before the first certificate."""
        snapshot = self._state.snapshot
        if snapshot is None:
            return None
        return Held(replace(snapshot, bundle_pem=pem_of(self._bundle.answered)), self._state.renew_at)

    async def run(self) -> None:
        """Rotate until cancelled. Raises nothing of its own: everything is waited out. The feed stays open."""
        try:
            event: rotation.Event = rotation.Tick()
            while True:
                self._advance(event)
                event = await self._next_event()
        finally:
            tasks = [task for task in (self._attempt, self._watch) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def resume(self, held: Held) -> None:
        """Go on with what an earlier run held. Before `run` only."""
        now = self._clock()
        self._resumed = True
        too_long = held.snapshot.not_after - now > self._wish.ttl_seconds  # a shorter life is wanted than in that run
        renew_at = now if too_long else held.renew_at
        self._state = rotation.resume(held.snapshot, renew_at, now=now, chance=self._chance())
        self._health = self.health(now)
        self._serve(held.snapshot)
        log.info("a certificate of an earlier run is served", extra=self._words(held.snapshot, now))

    def _advance(self, event: rotation.Event) -> None:
        now = self._clock()
        self._state, actions = rotation.advance(self._state, event, now=now, chance=self._chance())
        self._feed.denied = self._state.failure is not None and self._state.failure.denied
        for action in actions:
            match action:
                case rotation.Ask():
                    self._attempt = asyncio.create_task(self._ask())
                case rotation.Serve(snapshot):
                    self._ledger.renewed(str(snapshot.spiffe_id))
                    self._serve(snapshot)
                    log.info("a new certificate is served", extra=self._words(snapshot, now))
                case rotation.Report(failure):
                    held = self._state.snapshot
                    whose = UNNAMED if held is None else str(held.spiffe_id)
                    self._ledger.failed(whose, failure.kind)
                    report(action, self.health(now), now, self._many, whose=whose)
        self._tell_health(now)
        self._stepped.wake()

    def _serve(self, snapshot: Snapshot) -> None:
        """Serve a certificate with the configured roots beside those that came with it."""
        answered = read_roots(snapshot.bundle_pem) if snapshot.bundle_pem else ()
        self._bundle = self._bundle.with_answer(answered)
        self._feed.publish(replace(snapshot, bundle_pem=self._bundle.pem))

    def _words(self, snapshot: Snapshot, now: float) -> Mapping[str, object]:
        return {
            "spiffe_id": str(snapshot.spiffe_id),
            "serial": f"{snapshot.serial:x}",
            "not_after": snapshot.not_after,
            "renewal_in_seconds": round(self._state.renew_at - now),
            "roots": len(self._bundle.roots),
        }

    def _take_roots(self) -> rotation.Event:
        """Serve other configured roots at once: nobody has to wait for a renewal."""
        roots, before = self._roots.current, self._bundle
        self._bundle = before.with_configured(roots)
        snapshot = self._state.snapshot
        if snapshot is None:
            return rotation.RootsChanged(trusted=True)
        if self._bundle.sequence != before.sequence:
            self._feed.publish(replace(snapshot, bundle_pem=self._bundle.pem))
            log.info("other roots are served", extra={"roots": len(self._bundle.roots), "digest": self._bundle.digest})
        trusted = is_trusted(snapshot.chain_pem, pem_of(roots), self._clock())
        if not trusted:
            log.warning(
                "the certificate held does not chain to the configured roots any more: the CA is asked anew",
                extra={"spiffe_id": str(snapshot.spiffe_id)},
            )
        return rotation.RootsChanged(trusted=trusted)

    def _tell_health(self, now: float) -> None:
        before, self._health = self._health, self.health(now)
        snapshot, failure = self._state.snapshot, self._state.failure
        if self._health is not before and self._health is Health.EXPIRED and snapshot is not None:
            log.error(
                "the certificate has expired, and there is no other: peers refuse it from now on",
                extra={
                    "spiffe_id": str(snapshot.spiffe_id),
                    "not_after": snapshot.not_after,
                    "last_failure": f"{failure.kind.value}/{failure.reason}" if failure else "",
                },
            )

    async def _next_event(self) -> rotation.Event:
        waiting: set[asyncio.Future[rotation.Event] | asyncio.Future[None]] = set()
        if self._attempt is not None:
            waiting.add(self._attempt)
        self._watch_credential()
        if self._watch is not None:
            waiting.add(self._watch)
        other_roots = self._roots.changes()
        if self._roots.current != self._bundle.configured:
            return self._take_roots()
        waiting.add(other_roots)
        if self._clock_jumps is not None:
            waiting.add(self._clock_jumps())
        await asyncio.wait(waiting, timeout=self._sleep_seconds(), return_when=asyncio.FIRST_COMPLETED)
        if self._attempt is not None and self._attempt.done():
            attempt, self._attempt = self._attempt, None
            return attempt.result()
        if self._watch is not None and self._watch.done():
            self._watch = None
            return rotation.TokenChanged()
        if other_roots.done():
            return self._take_roots()
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

    def _sleep_seconds(self) -> float | None:
        now = self._clock()
        longest = LONGEST_SLEEP_SECONDS if self._clock_jumps is None else math.inf
        seconds = min(rotation.next_wake(self._state, now) - now, longest)
        return max(0.0, seconds) if seconds < math.inf else None

    async def _ask(self) -> rotation.Event:
        """Make one attempt. Whatever goes wrong is an event: an agent that serves a certificate does not die."""
        try:
            self._roots.refresh()
            credential = await self._credentials.read(self._clock(), self._state.snapshot)
            request = await asyncio.to_thread(new_key_request, self._wish.key_type)
            answer = await self._authority.sign(request.csr_pem, credential, self._wish.ttl_seconds)
            roots_pem = pem_of(self._roots.current)
            snapshot = accept(answer.cert_chain, request, roots_pem=roots_pem, now=self._clock())
            self._check_identity(snapshot)
        except Exception as error:  # noqa: BLE001 - see above; the kinds are told apart there
            return rotation.Failed(failure_of(error))
        return rotation.Obtained(snapshot)

    def _check_identity(self, new: Snapshot) -> None:
        """A workload does not turn into another one; but what an earlier run left behind binds nobody."""
        held, resumed, self._resumed = self._state.snapshot, self._resumed, False
        if held is not None and not resumed:
            check_same_identity(held, new)
        elif held is not None and held.spiffe_id != new.spiffe_id:
            log.warning(
                "the earlier run was another workload's: its certificate is replaced",
                extra={"before": str(held.spiffe_id), "now": str(new.spiffe_id)},
            )
