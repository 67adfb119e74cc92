"""One keeper in a test's own event loop: a CA that is a function, credentials from a list, roots that are set."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace

import pytest
from cryptography import x509

from meshpki.agent.renewal.ca_client import Answer, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.credential import Credential, TokenCredential
from meshpki.agent.renewal.keeper import Held, Keeper, Wish
from meshpki.agent.renewal.ledger import Count, Ledger
from meshpki.agent.rotation.bundle import Roots, read_roots
from meshpki.agent.rotation.failure import FailureKind
from meshpki.agent.rotation.feed import Feed
from meshpki.agent.rotation.snapshot import Snapshot
from meshpki.hooks import Health
from meshpki.runtime.wakeup import Signal
from support.fake_ca import SPIFFE_ID, FakeAuthority

OLD, NEW = FakeAuthority(), FakeAuthority()
BOTH = OLD.roots_pem + NEW.roots_pem


@dataclass
class Ca:
    """Signs at once, or raises."""

    authority: FakeAuthority = field(default_factory=lambda: OLD)
    life: float = 3600
    uri: str = SPIFFE_ID
    error: Exception | None = None
    calls: list[Credential] = field(default_factory=list)

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        self.calls.append(credential)
        if self.error is not None:
            raise self.error
        chain = self.authority.answer(csr_pem, ends=self.life, uri=self.uri)
        return Answer(tuple(chain))


class Credentials:
    """Always the same token; `renew` says that there is another."""

    def __init__(self) -> None:
        self.waiting = 0
        self._signal = Signal()

    async def read(self, now: float, held: Snapshot | None) -> Credential:
        return TokenCredential("token")

    async def changed(self) -> None:
        self.waiting += 1
        try:
            await asyncio.wait([self._signal.next()])
        finally:
            self.waiting -= 1

    def renew(self) -> None:
        self._signal.wake()


class SetRoots:
    def __init__(self, pem: bytes) -> None:
        self.current: Roots = read_roots(pem)
        self._signal = Signal()

    def changes(self) -> asyncio.Future[None]:
        return self._signal.next()

    def refresh(self) -> None:
        pass

    def set(self, pem: bytes) -> None:
        self.current = read_roots(pem)
        self._signal.wake()


@dataclass
class Scene:
    """A keeper and everything around it."""

    held: Held | None = None
    ca: Ca = field(default_factory=Ca)
    credentials: Credentials = field(default_factory=Credentials)
    roots: SetRoots = field(default_factory=lambda: SetRoots(OLD.roots_pem))
    feed: Feed = field(default_factory=Feed)
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        self.keeper = Keeper(
            Wish(3600),
            authority=self.ca,
            credentials=self.credentials,
            feed=self.feed,
            roots=self.roots,
            held=self.held,
            ledger=self.ledger,
            chance=lambda: 0.5,
        )

    async def until(self, condition: Callable[[], object]) -> None:
        """After some step of the keeper."""
        while True:
            step = self.keeper.steps()
            if condition():
                return
            done, _ = await asyncio.wait([step], timeout=30)
            assert done, "no step in 30 s"

    @property
    def served(self) -> Snapshot:
        assert self.feed.current is not None
        return self.feed.current

    def certificate(self) -> Snapshot | None:
        return self.feed.current

    def health(self) -> Health:
        return self.keeper.health(time.time())


def test_with_a_watch_of_the_clock_it_sleeps_until_something_is_due_and_wakes_at_a_jump() -> None:
    async def scene() -> None:
        jumped, skew = Signal(), [0.0]
        ca = Ca()
        keeper = Keeper(
            Wish(3600),
            authority=ca,
            credentials=Credentials(),
            feed=Feed(),
            roots=SetRoots(OLD.roots_pem),
            clock_jumps=jumped.next,
            clock=lambda: time.time() + skew[0],
            chance=lambda: 0.5,
        )
        running = asyncio.create_task(keeper.run())
        while keeper.state.snapshot is None:
            await asyncio.wait([keeper.steps()])
        seconds = keeper._sleep_seconds()
        assert seconds is not None
        assert seconds > 1000
        skew[0] = 1900.0
        jumped.wake()
        step = keeper.steps()
        await asyncio.wait_for(asyncio.shield(step), 10)
        await soon(lambda: keeper.state.asking)
        await ended(running)

    asyncio.run(scene())


async def ended(task: asyncio.Task[None]) -> None:
    """Cancel it, and wait until it has gone."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 30)


async def soon(condition: Callable[[], bool]) -> None:
    """Within a few turns of the loop."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("not soon")


def run(act: Callable[[Scene], Awaitable[None]], **parts: object) -> None:
    async def main() -> None:
        scene = Scene(**parts)  # type: ignore[arg-type]  # as the table says
        task = asyncio.create_task(scene.keeper.run())
        try:
            await act(scene)
        finally:
            await ended(task)
        assert scene.credentials.waiting == 0, "nothing is left waiting"
        assert not scene.feed.closed, "the feed is its owner's to close"

    asyncio.run(asyncio.wait_for(main(), 30))


def roots_of(snapshot: Snapshot) -> set[x509.Certificate]:
    return set(x509.load_pem_x509_certificates(snapshot.bundle_pem))


def test_other_roots_are_served_at_once_and_without_a_word_to_the_ca() -> None:
    async def act(scene: Scene) -> None:
        await scene.until(scene.certificate)
        first = scene.served
        assert roots_of(first) == {OLD.root.certificate}
        scene.roots.set(BOTH)
        await scene.until(lambda: scene.served is not first)
        assert roots_of(scene.served) == {OLD.root.certificate, NEW.root.certificate}
        assert scene.served.serial == first.serial
        assert scene.served.key_pem == first.key_pem
        second = scene.served
        scene.roots.set(OLD.roots_pem)
        await scene.until(lambda: scene.served is not second)
        assert roots_of(scene.served) == {OLD.root.certificate}
        assert len(scene.ca.calls) == 1
        assert scene.keeper.status(time.time()).bundle.sequence == 3

    run(act)


def test_the_configured_roots_are_served_beside_those_of_the_answer() -> None:
    async def act(scene: Scene) -> None:
        await scene.until(scene.certificate)
        assert roots_of(scene.served) == {OLD.root.certificate, NEW.root.certificate}
        held = scene.keeper.held()
        assert held is not None
        assert roots_of(held.snapshot) == {OLD.root.certificate}, "what is kept is the answer's part alone"

    run(act, roots=SetRoots(BOTH))


def test_an_answer_that_ends_at_no_configured_root_is_refused_whatever_the_call_was_checked_against() -> None:
    async def act(scene: Scene) -> None:
        await scene.until(lambda: scene.keeper.state.failure)
        failure = scene.keeper.state.failure
        assert failure is not None
        assert (failure.kind, failure.reason) == (FailureKind.ANSWER, "unknown_root")
        assert scene.feed.current is None
        scene.roots.set(BOTH)
        await scene.until(scene.certificate)  # at once: long before the backoff of many failures

    run(act, roots=SetRoots(NEW.roots_pem))


def test_when_the_held_chain_is_trusted_no_more_the_ca_is_asked_and_the_old_one_served_meanwhile() -> None:
    async def act(scene: Scene) -> None:
        await scene.until(scene.certificate)
        first = scene.served
        scene.ca.error = CaUnavailableError("UNAVAILABLE", "away", todo="")
        scene.roots.set(NEW.roots_pem)
        await scene.until(lambda: len(scene.ca.calls) == 2 and scene.keeper.state.failure)
        assert roots_of(scene.served) == {NEW.root.certificate}, "the old root goes, although the last answer had it"
        assert scene.served.serial == first.serial, "the old certificate is better than none"
        scene.ca.error, scene.ca.authority = None, NEW
        await scene.until(lambda: scene.served.serial != first.serial)
        assert scene.health() is Health.FRESH

    run(act)


def test_roots_that_change_nothing_that_is_served_wake_no_face() -> None:
    async def act(scene: Scene) -> None:
        await scene.until(scene.certificate)
        first, change = scene.served, scene.feed.changes()
        step = scene.keeper.steps()
        scene.roots.set(BOTH)  # the answer had both already
        await asyncio.wait([step])
        assert scene.served is first
        assert not change.done()
        assert len(scene.ca.calls) == 1

    both = Ca()
    answer = both.sign

    async def with_both(csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        found = await answer(csr_pem, credential, ttl_seconds)
        return replace(found, cert_chain=(*found.cert_chain[:-1], BOTH.decode()))

    both.sign = with_both  # type: ignore[method-assign]  # for this test
    run(act, ca=both)


def test_another_token_is_waited_for_only_while_it_would_help() -> None:
    async def act(scene: Scene) -> None:
        scene.ca.error = CaRefusedError("UNAUTHENTICATED", "token_expired", "no", todo="")
        await scene.until(lambda: scene.keeper.state.failure)
        await soon(lambda: scene.credentials.waiting == 1)
        scene.ca.error = None
        scene.credentials.renew()
        await scene.until(scene.certificate)
        await soon(lambda: scene.credentials.waiting == 0)
        assert len(scene.ca.calls) == 2

    run(act)


def test_whether_the_ca_has_refused_is_known_to_the_faces() -> None:
    """By it a SPIFFE client hears that there is no identity for it, and not that it may come back in a moment."""

    async def act(scene: Scene) -> None:
        def denied() -> bool:
            return scene.feed.denied

        scene.ca.error = CaUnavailableError("UNAVAILABLE", "away", todo="")
        await scene.until(lambda: scene.keeper.state.failure)
        assert not denied()
        scene.ca.error = CaRefusedError("UNAUTHENTICATED", "token_expired", "no", todo="")
        await scene.until(lambda: scene.health() is Health.DENIED)
        assert denied()
        scene.ca.error = None
        scene.credentials.renew()
        await scene.until(scene.certificate)
        assert not denied()

    run(act)


def test_what_is_counted() -> None:
    async def act(scene: Scene) -> None:
        scene.ca.error = CaUnavailableError("UNAVAILABLE", "away", todo="")
        await scene.until(lambda: scene.keeper.state.failure)
        before = scene.keeper.status(time.time())
        counts = scene.ledger.counts()
        assert (before.health, before.snapshot) == (Health.FAILED, None)
        assert before.failure is not None
        assert 0 <= time.time() - before.failing_since < 10
        assert counts == {"": Count(0, {FailureKind.NETWORK: 1})}
        scene.ca.error = CaRefusedError("UNAUTHENTICATED", "token_expired", "no", todo="")
        await scene.until(lambda: scene.health() is Health.DENIED)
        denied = scene.keeper.status(time.time())
        assert denied.failing_since == before.failing_since, "it has failed since then, whatever for"
        scene.ca.error = None
        scene.credentials.renew()
        await scene.until(scene.certificate)
        after = scene.keeper.status(time.time())
        assert (after.health, after.snapshot, after.failure) == (Health.FRESH, scene.served, None)
        assert scene.ledger.counts() == {
            "": Count(0, {FailureKind.NETWORK: 1, FailureKind.VERDICT: 1}),
            str(scene.served.spiffe_id): Count(1, {}),
        }
        assert counts == {"": Count(0, {FailureKind.NETWORK: 1})}, "what was told stays as it was"
        assert after.bundle.digest

    run(act)


def held_by(uri: str = SPIFFE_ID, *, renew_in: float = 1800) -> Held:
    """What an earlier run held."""
    found: list[Held] = []

    async def act(scene: Scene) -> None:
        await scene.until(scene.certificate)
        held = scene.keeper.held()
        assert held is not None
        found.append(replace(held, renew_at=time.time() + renew_in))

    run(act, ca=Ca(uri=uri))
    return found[0]


def test_what_an_earlier_run_held_is_served_from_the_first_moment_and_renewed_when_it_was_planned() -> None:
    held = held_by(renew_in=1.0)

    async def act(scene: Scene) -> None:
        assert scene.served.serial == held.snapshot.serial
        assert scene.health() is Health.FRESH
        assert scene.ca.calls == []
        await scene.until(lambda: scene.served.serial != held.snapshot.serial)

    run(act, held=held)


def test_a_renewal_is_never_planned_later_than_for_a_new_certificate() -> None:
    held = held_by(renew_in=10 * 86400)

    async def act(scene: Scene) -> None:
        assert scene.keeper.state.due_at < held.snapshot.not_after - 1700

    run(act, held=held)


def test_the_configured_roots_are_served_with_what_was_held_too() -> None:
    async def act(scene: Scene) -> None:
        assert roots_of(scene.served) == {OLD.root.certificate, NEW.root.certificate}

    run(act, held=held_by(), roots=SetRoots(BOTH))


@pytest.mark.parametrize("first", [True, False])
def test_the_next_renewal_decides_whose_a_held_certificate_was_but_only_the_first(
    first: bool, caplog: pytest.LogCaptureFixture
) -> None:
    other = SPIFFE_ID + "2"
    held = held_by(renew_in=0)

    async def act(scene: Scene) -> None:
        if first:
            scene.ca.uri = other
            await scene.until(lambda: str(scene.served.spiffe_id) == other)
            assert any("another workload's" in record.message for record in caplog.records)
            return
        scene.ca.life = 2
        await scene.until(lambda: scene.served.serial != held.snapshot.serial)
        scene.ca.uri = other
        await scene.until(lambda: scene.keeper.state.failure)
        assert scene.keeper.state.failure is not None
        assert scene.keeper.state.failure.reason == "identity_changed"

    with caplog.at_level(logging.WARNING):
        run(act, held=held)


def test_an_expired_certificate_goes_on_being_served_and_is_called_expired(caplog: pytest.LogCaptureFixture) -> None:
    async def act(scene: Scene) -> None:
        await scene.until(scene.certificate)
        first = scene.served
        scene.ca.error = CaUnavailableError("UNAVAILABLE", "away", todo="")
        await scene.until(lambda: scene.health() is Health.EXPIRED)
        assert scene.served is first
        (said,) = [vars(record) for record in caplog.records if record.levelname == "ERROR"]
        assert (said["spiffe_id"], said["not_after"]) == (str(first.spiffe_id), first.not_after), "a node has many"
        assert said["last_failure"] == "network/unavailable"

    run(act, ca=Ca(life=2))
