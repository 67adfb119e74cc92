"""Node mode tells the CA which roots each identity serves: with that identity's token, in its turn, while it lasts."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from meshpki.agent.node.limits import Limits
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.renewal import bundle_report
from meshpki.agent.renewal.ca_client import Answer, BundleHeld
from meshpki.agent.renewal.credential import Credential, TokenCredential
from meshpki.agent.renewal.keeper import Wish
from meshpki.agent.rotation.bundle import Roots, read_roots
from meshpki.runtime.wakeup import Signal
from support import ca_server
from support.agent_process import fake_token, wait_until
from support.authority import make_authority
from support.fake_ca import FakeAuthority
from support.node_agent import NodeAgentProcess, Stream, with_token
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

LIFE = 3600.0
AT_ONCE = 3
WHO = ("cluster", "service_account", "instance")


class Ca:
    """Signs and hears, and counts who is with it at a time."""

    def __init__(self) -> None:
        self.authority = FakeAuthority()
        self.heard: list[tuple[str, BundleHeld]] = []
        self.signed = 0
        self.here = 0
        self.most = 0

    @asynccontextmanager
    async def _visit(self) -> AsyncIterator[None]:
        self.here += 1
        self.most = max(self.most, self.here)
        await asyncio.sleep(0.002)
        yield
        self.here -= 1

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        async with self._visit():
            self.signed += 1
            return Answer(tuple(self.authority.answer(csr_pem, ends=LIFE)))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        async with self._visit():
            assert isinstance(credential, TokenCredential)
            self.heard.append((credential.token, bundle))


class SetRoots:
    def __init__(self, pem: bytes) -> None:
        self.current: Roots = read_roots(pem)
        self._changed = Signal()

    def changes(self) -> asyncio.Future[None]:
        return self._changed.next()

    def set(self, pem: bytes) -> None:
        self.current = read_roots(pem)
        self._changed.wake()

    def refresh(self) -> None:
        pass


class Node:
    def __init__(self) -> None:
        self.ca = Ca()
        self.roots = SetRoots(self.ca.authority.roots_pem)
        self.now = time.time()
        self.sessions = NodeSessions(
            Wish(int(LIFE)),
            self.ca,
            self.roots,
            Limits(),
            at_once=AT_ONCE,
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )

    async def heard(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.ca.heard) < count:
                await asyncio.sleep(0.002)
        for _ in range(20):  # and no more than that
            await asyncio.sleep(0.001)
        assert len(self.ca.heard) == count

    async def open(self, *tokens: str) -> None:
        await asyncio.gather(*(self.sessions.open((("authorization", f"Bearer {token}"),)) for token in tokens))


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    node, stopping = Node(), asyncio.Event()
    task = asyncio.create_task(node.sessions.run(stopping))
    try:
        yield node
    finally:
        stopping.set()
        await asyncio.wait_for(task, 10)
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set(), "nothing goes on"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_report, "SPREAD_SECONDS", 0.0)


def tokens(count: int, *, life: float = 86_400) -> list[str]:
    return [fake_token(expires_at=time.time() + life, mark=str(number)) for number in range(count)]


def test_each_identity_tells_with_its_own_token_when_it_is_its_turn() -> None:
    async def scene() -> None:
        async with running() as node:
            held = tokens(20)
            await node.open(*held)
            await node.heard(20)
            assert sorted(token for token, _ in node.ca.heard) == sorted(held)
            (said,) = {bundle for _, bundle in node.ca.heard}
            assert (said.roots, said.sequence) == (1, 1)
            node.roots.set(node.ca.authority.roots_pem + FakeAuthority().roots_pem)
            await node.heard(40)
            (news,) = {bundle for _, bundle in node.ca.heard[20:]}
            assert (news.roots, news.sequence) == (2, 2)
            assert news.digest != said.digest
            assert sorted(token for token, _ in node.ca.heard[20:]) == sorted(held)
            assert node.ca.signed == 20, "other roots need no other certificate"
            assert node.ca.most <= AT_ONCE

    asyncio.run(scene())


def test_a_spent_token_is_not_sent_for_a_report_and_nobody_is_asked_back_for_it() -> None:
    async def scene() -> None:
        async with running() as node:
            short, long = (
                fake_token(expires_at=node.now + 60, mark="a"),
                fake_token(expires_at=node.now + 600, mark="b"),
            )
            await node.open(short, long)
            await node.heard(2)
            node.now += 58
            node.roots.set(node.ca.authority.roots_pem + FakeAuthority().roots_pem)
            await node.heard(3)
            assert node.ca.heard[-1][0] == long
            phases = {phase.value: count for phase, count in node.sessions.phases().items()}
            assert phases == {"waiting": 0, "serving": 2, "reconnecting": 0}

    asyncio.run(scene())


@pytest.fixture
def agent(short_dir: Path, tmp_path: Path) -> Iterator[tuple[RunningCa, NodeAgentProcess]]:
    with ca_server.running(tmp_path) as ca:
        agent = NodeAgentProcess(short_dir, ca.server.address)
        agent.roots.write_bytes(ca.authority.root_pem)
        with agent:
            yield ca, agent


def reports(ca: RunningCa) -> dict[str, dict[str, Any]]:  # Any: JSON, looked at field by field
    return {
        json.dumps([report[key] for key in WHO]): report for report in json.loads(ca.http("/bundles")[1])["reports"]
    }


@pytest.mark.e2e
def test_the_real_ca_knows_what_each_workload_of_a_node_serves(agent: tuple[RunningCa, NodeAgentProcess]) -> None:
    ca, node = agent
    names = ("client", "server")
    forged = TokenMaker(slot=1).token(now=time.time(), name="mallory", pod="mallory-0")
    streams = [
        Stream(node.socket, with_token(ca.maker.token(now=time.time(), name=name, pod=f"{name}-0")), "ROOTCA")
        for name in names
    ]
    streams.append(Stream(node.socket, with_token(forged), "ROOTCA"))
    try:
        for stream in streams[:2]:
            stream.secrets()
        wait_until(lambda: len(reports(ca)) == 2, "a report for each workload", seconds=30)
        first = reports(ca)
        assert {(report["sequence"], report["roots"]) for report in first.values()} == {(1, 1)}
        node.roots.write_bytes(ca.authority.root_pem + make_authority().root_pem)
        wait_until(
            lambda: {report["roots"] for report in reports(ca).values()} == {2}, "the other roots reported", seconds=30
        )
        second = reports(ca)
        assert second.keys() == first.keys(), "nobody else has said anything"
        assert {report["sequence"] for report in second.values()} == {2}
        assert {report["digest"] for report in second.values()}.isdisjoint({r["digest"] for r in first.values()})
    finally:
        for stream in streams:
            stream.close()
