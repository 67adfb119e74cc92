"""What a node's agent counts by identity: whatever tokens come and go, no number goes down while it is shown."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.node import sessions as node
from meshpki.agent.node.limits import Limits
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.renewal.ca_client import Answer, BundleHeld, CaUnavailableError
from meshpki.agent.renewal.keeper import Wish
from meshpki.agent.renewal.ledger import UNNAMED, Count
from meshpki.agent.rotation.failure import FailureKind
from support.agent_process import fake_token
from support.fake_ca import SPIFFE_ID, FakeAuthority
from support.fixed_roots import FixedRoots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from meshpki.agent.renewal.credential import Credential
    from meshpki.agent.socket.sessions import Session

AUTHORITY = FakeAuthority()
LIFE = 3600
GRACE = 0.05


@dataclass
class Ca:
    away: bool = False

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        if self.away:
            raise CaUnavailableError("UNAVAILABLE", "away", todo="")
        return Answer(tuple(AUTHORITY.answer(csr_pem, ends=LIFE)))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        pass


class Node:
    def __init__(self) -> None:
        self.ca = Ca()
        limits, wish, roots = Limits(grace_seconds=GRACE), Wish(LIFE), FixedRoots(AUTHORITY)
        self.sessions = NodeSessions(wish, self.ca, roots, limits, at_once=2, chance=lambda: 0.5)

    async def open(self, mark: str) -> Session:
        token = fake_token(expires_at=time.time() + LIFE, mark=mark)
        return await self.sessions.open((("authorization", f"Bearer {token}"),))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    made, stopping = Node(), asyncio.Event()
    task = asyncio.create_task(made.sessions.run(stopping))
    try:
        yield made
    finally:
        stopping.set()
        await asyncio.wait_for(task, 20)


def playing(scene: Callable[[Node], Awaitable[None]]) -> None:
    async def main() -> None:
        async with running() as made:
            await scene(made)

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "LONGEST_SLEEP_SECONDS", 0.02)


def test_a_pod_that_goes_takes_nothing_from_what_its_account_has_counted() -> None:
    """A counter that falls is taken for one that began anew: what is left would count a second time."""

    async def scene(made: Node) -> None:
        first, second = await made.open("one"), await made.open("two")
        assert made.sessions.counts() == {SPIFFE_ID: Count(2, {})}
        first.close()
        await made.until(lambda: len(made.sessions.standings()) == 1)
        assert made.sessions.counts() == {SPIFFE_ID: Count(2, {})}
        third = await made.open("three")
        second.close()
        await made.until(lambda: len(made.sessions.standings()) == 1)
        assert made.sessions.counts() == {SPIFFE_ID: Count(3, {})}, "with a fresh token, too"
        third.close()
        await made.until(lambda: not made.sessions.standings())
        assert made.sessions.counts() == {}, "and is forgotten with the last"

    playing(scene)


def test_what_newcomers_meet_is_counted_and_since_when_is_known() -> None:
    async def scene(made: Node) -> None:
        made.ca.away = True
        waiting = asyncio.create_task(made.open("one"))
        await made.until(made.sessions.unanswered)
        (state,) = made.sessions.unanswered()
        assert state.failure is not None
        assert (state.failure.kind, state.failure.reason) == (FailureKind.NETWORK, "unavailable")
        assert 0 <= time.time() - state.failing_since < 20
        (count,) = made.sessions.counts().values()
        assert count.failures[FailureKind.NETWORK] >= 1
        made.ca.away = False
        (await waiting).close()
        counted = made.sessions.counts()
        assert counted[UNNAMED].failures[FailureKind.NETWORK] >= count.failures[FailureKind.NETWORK]
        assert counted[SPIFFE_ID] == Count(1, {})

    playing(scene)


def test_counts_nobody_reads_do_not_grow_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "MOST_GONE", 3)
    names = iter(range(100))
    answer = AUTHORITY.answer
    monkeypatch.setattr(AUTHORITY, "answer", lambda csr, ends: answer(csr, ends=ends, uri=f"{SPIFFE_ID}{next(names)}"))

    async def scene(made: Node) -> None:
        for number in range(12):
            (await made.open(f"job {number}")).close()
        await made.until(lambda: not made.sessions.standings())
        assert len(made.sessions._ledger) <= 3

    playing(scene)
