"""The agent's word about its roots: after each renewal and change, again until heard, and never in anybody's way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from meshpki.agent.renewal import bundle_report
from meshpki.agent.renewal.bundle_report import BundleReporter
from meshpki.agent.renewal.ca_client import BundleHeld, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.credential import Credential, TokenCredential
from meshpki.agent.rotation.feed import Feed
from support.snapshots import snapshot as make_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

    from meshpki.agent.rotation.snapshot import Snapshot

FIRST, SECOND = BundleHeld("a" * 64, 1, 1), BundleHeld("b" * 64, 2, 2)
AWAY = CaUnavailableError("UNAVAILABLE", "away", todo="wait")
UNKNOWN = CaUnavailableError("UNIMPLEMENTED", "no such call", todo="")
REFUSED = CaRefusedError("UNAUTHENTICATED", "token_expired", "refused", todo="")
SNAPSHOT = make_snapshot()


class Scene:
    """A reporter, who hears it, and what it is to tell; time between attempts is as short as it gets."""

    def __init__(self, *failures: Exception) -> None:
        self.heard: list[BundleHeld] = []
        self.attempts = 0
        self.failures = list(failures)
        self.bundle: BundleHeld | None = FIRST
        self.feed = Feed()
        self.read: list[Snapshot | None] = []

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        self.attempts += 1
        if self.failures:
            raise self.failures.pop(0)
        self.heard.append(bundle)

    async def sees(self, now: float, held: Snapshot | None) -> Credential:
        self.read.append(held)
        return TokenCredential("token")

    async def changed(self) -> None:
        raise AssertionError("nobody waits for a token to report")

    def play(self, script: Callable[[], Awaitable[None]], *, chance: float = 0.0) -> None:
        async def run() -> None:
            source = Source(self)
            reporter = BundleReporter(
                self, credentials=source, feed=self.feed, held=lambda: self.bundle, chance=lambda: chance
            )
            running = asyncio.create_task(reporter.run())
            try:
                await script()
            finally:
                assert not running.done(), running.exception()
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

        asyncio.run(run())

    async def until(self, attempts: int) -> None:
        async with asyncio.timeout(10):
            while self.attempts < attempts:
                await asyncio.sleep(0.005)

    async def nothing_more(self) -> None:
        before = self.attempts
        for _ in range(20):
            await asyncio.sleep(0.002)
        assert self.attempts == before


class Source:
    """A source of one token, that notes for whom it was read."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.changed = scene.changed

    async def read(self, now: float, held: Snapshot | None) -> Credential:
        return await self._scene.sees(now, held)


def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in ("RETRY", "DENIED"):
        monkeypatch.setattr(bundle_report, policy, replace(getattr(bundle_report, policy), first=0.02, cap=0.02))


def test_once_for_each_certificate_and_each_bundle() -> None:
    scene = Scene()

    async def script() -> None:
        await scene.nothing_more()
        scene.feed.publish(SNAPSHOT)
        await scene.until(1)
        await scene.nothing_more()
        scene.feed.publish(SNAPSHOT)
        await scene.nothing_more()
        scene.feed.publish(replace(SNAPSHOT, serial=SNAPSHOT.serial + 1))
        await scene.until(2)
        scene.bundle = SECOND
        scene.feed.publish(replace(SNAPSHOT, serial=SNAPSHOT.serial + 1))
        await scene.until(3)
        await scene.nothing_more()

    scene.play(script)
    assert scene.heard == [FIRST, FIRST, SECOND]
    assert scene.read[0] is SNAPSHOT


def test_again_until_it_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    scene = Scene(AWAY, REFUSED, OSError("no such thing was foreseen"), AWAY)

    async def script() -> None:
        scene.feed.publish(SNAPSHOT)
        await scene.until(5)
        await scene.nothing_more()

    scene.play(script)
    assert scene.heard == [FIRST]


def test_what_is_told_late_is_what_is_served_then(monkeypatch: pytest.MonkeyPatch) -> None:
    quick(monkeypatch)
    scene = Scene(AWAY)

    async def script() -> None:
        scene.feed.publish(SNAPSHOT)
        await scene.until(1)
        scene.bundle = SECOND
        await scene.until(2)
        await scene.nothing_more()

    scene.play(script)
    assert scene.heard == [SECOND]


def test_another_ca_is_left_alone_until_there_is_news() -> None:
    scene = Scene(UNKNOWN)

    async def script() -> None:
        scene.feed.publish(SNAPSHOT)
        await scene.until(1)
        await scene.nothing_more()
        scene.bundle = SECOND
        scene.feed.publish(replace(SNAPSHOT, serial=9))
        await scene.until(2)

    scene.play(script)
    assert scene.heard == [SECOND]


def test_nothing_is_told_before_there_is_a_bundle() -> None:
    scene = Scene()
    scene.bundle = None

    async def script() -> None:
        scene.feed.publish(SNAPSHOT)
        await scene.nothing_more()

    scene.play(script)


def test_reports_of_many_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    real = asyncio.sleep

    async def sleep(seconds: float) -> None:
        waited.append(seconds)
        await real(0)

    scene = Scene()

    async def script() -> None:
        monkeypatch.setattr(asyncio, "sleep", sleep)
        scene.feed.publish(SNAPSHOT)
        for _ in range(50):
            await real(0.005)
        monkeypatch.undo()

    scene.play(script, chance=0.5)
    assert scene.heard == [FIRST]
    assert bundle_report.SPREAD_SECONDS * 0.5 in waited


def test_those_who_learn_of_other_roots_at_once_do_not_tell_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, slept = Scene(), []
    sleep = asyncio.sleep

    async def noted(seconds: float) -> None:
        slept.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    scene.feed.publish(SNAPSHOT)

    async def tell(chance: float) -> None:
        reporter = BundleReporter(
            scene, credentials=Source(scene), feed=scene.feed, held=lambda: scene.bundle, chance=lambda: chance
        )
        await reporter.tell()

    for chance in (0.0, 0.5, 0.9):
        asyncio.run(tell(chance))
    assert slept == [0.0, 2.5, 4.5]
    assert scene.heard == [FIRST] * 3
