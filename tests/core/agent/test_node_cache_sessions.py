"""A node's sessions with a cache: who is served after a restart, who waits, and what a refusal leaves behind."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import json
import logging
import os
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.node import cache as node_cache
from meshpki.agent.node import cache_line as node_cache_line
from meshpki.agent.node import sessions as node
from meshpki.agent.node.actions import TokenKey
from meshpki.agent.node.cache_line import NodeCacheLine, bounds_for
from meshpki.agent.node.limits import Limits
from meshpki.agent.node.run import render
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.renewal.ca_client import Answer, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.credential import TokenCredential
from meshpki.agent.renewal.keeper import Held, Wish
from meshpki.agent.socket.sessions import CallRefusedError
from meshpki.errors import MachineError
from meshpki.runtime.files import write_atomically
from support.agent_process import fake_token
from support.fake_ca import FakeAuthority
from support.fixed_roots import FixedRoots
from support.real_snapshots import real_snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from meshpki.agent.renewal.ca_client import BundleHeld
    from meshpki.agent.renewal.credential import Credential
    from meshpki.agent.socket.sessions import Session

LIFE = 3600
AUTHORITY = FakeAuthority()


class Ca:
    """Signs for tokens by the clock of the machine, is away, or refuses; and keeps which tokens were shown to it."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.away = False
        self.refuses = False
        self.asked: list[str] = []

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        assert isinstance(credential, TokenCredential)
        self.asked.append(credential.token)
        if self.away:
            raise CaUnavailableError("UNAVAILABLE", "away", todo="wait")
        if self.refuses:
            raise CaRefusedError("UNAUTHENTICATED", "token_revoked", "refused", todo="none")
        AUTHORITY.now = self.machine.now  # later, and the next run would find a longer life than it wishes for
        return Answer(tuple(AUTHORITY.answer(csr_pem, ends=LIFE)))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        pass


class Machine:
    """A directory and a clock that outlive the agents, and the CA above them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.now = time.time()
        self.ca = Ca(self)

    @asynccontextmanager
    async def agent(self, *, cached: bool = True) -> AsyncIterator[NodeSessions]:
        """One run of an agent."""
        sessions = NodeSessions(
            Wish(LIFE),
            self.ca,
            FixedRoots(AUTHORITY),
            Limits(),
            at_once=4,
            cache=NodeCacheLine(self.directory, bounds_for(4)) if cached else None,
            clock=lambda: self.now,
            chance=lambda: 0.5,
        )
        stopping = asyncio.Event()
        running = asyncio.create_task(sessions.run(stopping))
        try:
            yield sessions
        finally:
            stopping.set()
            await asyncio.wait_for(running, 10)
        assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()

    def entries(self) -> set[str]:
        return {file.stem for file in self.directory.iterdir()} if self.directory.exists() else set()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "LONGEST_SLEEP_SECONDS", 0.02)
    token.cache_clear()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "cache")


@functools.cache
def token(mark: str = "a", *, life: float | None = 1800) -> str:
    """The same one whenever a test asks for it, though a second may have begun meanwhile."""
    return fake_token(expires_at=None if life is None else time.time() + life, mark=mark)


def name(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


async def opened(sessions: NodeSessions, text: str) -> Session:
    async with asyncio.timeout(10):
        return await sessions.open((("authorization", f"Bearer {text}"),))


async def waits(sessions: NodeSessions, text: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await sessions.open((("authorization", f"Bearer {text}"),))


def serial(session: Session) -> int:
    assert session.feed.current is not None
    return session.feed.current.serial


def test_after_a_restart_each_token_gets_what_it_had_and_the_ca_is_not_asked(machine: Machine) -> None:
    tokens = [token("a"), token("b")]

    async def scene() -> None:
        async with machine.agent() as sessions:
            before = [serial(await opened(sessions, one)) for one in tokens]
            assert {one["from_cache"] for one in standing(sessions)} == {False}
        assert machine.entries() == {name(one) for one in tokens}
        machine.ca.away, asked = True, len(machine.ca.asked)
        async with machine.agent() as sessions:
            after = [serial(await opened(sessions, one)) for one in tokens]
            assert after == before
            assert len(set(after)) == 2
            said = standing(sessions)
            assert [(one["from_cache"], one["state"], one["phase"]) for one in said] == [(True, "fresh", "serving")] * 2
            assert len(machine.ca.asked) == asked, "not due yet"

    asyncio.run(scene())


def standing(sessions: NodeSessions) -> list[dict[str, object]]:
    return json.loads(json.dumps(render(sessions, time.time())["identities"]))  # type: ignore[no-any-return]  # ours


def test_it_goes_on_renewing(machine: Machine) -> None:
    async def scene() -> None:
        async with machine.agent() as sessions:
            before = serial(await opened(sessions, token(life=90_000)))
        machine.now += 0.45 * LIFE
        async with machine.agent() as sessions:
            session = await opened(sessions, token(life=90_000))
            assert serial(session) == before
            machine.now += 0.1 * LIFE
            async with asyncio.timeout(10):
                while serial(session) == before or standing(sessions)[0]["from_cache"]:
                    await asyncio.sleep(0.01)
            renewed = serial(session)
        async with machine.agent() as sessions:
            assert serial(await opened(sessions, token(life=90_000))) == renewed

    asyncio.run(scene())


def test_every_other_token_waits_for_the_ca_though_its_claims_are_the_same(machine: Machine) -> None:
    mine = token("a")
    head, claims, signature = mine.split(".")

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, mine)
        machine.ca.away = True
        async with machine.agent() as sessions:
            await opened(sessions, mine)
            for other in (token("b"), f"{head}.{claims}.", f"{head}.{claims}.x{signature[1:]}", token("a", life=1801)):
                await waits(sessions, other)
        assert machine.entries() == {name(mine)}

    asyncio.run(scene())


def test_an_entry_in_another_tokens_place_is_not_served(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    """Both end at the same moment, and both are whole."""
    ends = time.time() + 1800
    mine, other = (fake_token(expires_at=ends, mark=mark) for mark in "ab")

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, mine)
        os.link(machine.directory / f"{name(mine)}.json", machine.directory / f"{name(other)}.json")
        machine.ca.away = True
        async with machine.agent() as sessions:
            await waits(sessions, other)
            await opened(sessions, mine)

    asyncio.run(scene())
    (record,) = [record for record in caplog.records if "not used" in record.message]
    assert vars(record)["seen"] == "it is another token's entry"


def test_a_token_that_has_expired_brings_nothing_and_its_entry_goes(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_cache_line, "SWEEP_SECONDS", 1.0)
    mine = token("a", life=1000)

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, mine)
        assert machine.entries() == {name(mine)}
        machine.ca.away = True
        async with machine.agent() as sessions:
            assert machine.entries() == {name(mine)}
            machine.now += 1001
            with pytest.raises(CallRefusedError):
                await opened(sessions, mine)
            async with asyncio.timeout(10):
                while machine.entries():
                    await asyncio.sleep(0.01)

    asyncio.run(scene())


def test_a_token_that_is_refused_later_has_no_entry_any_more(machine: Machine) -> None:
    mine = token(life=90_000)

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, mine)
            async with asyncio.timeout(10):
                while machine.entries() != {name(mine)}:
                    await asyncio.sleep(0.01)
                machine.ca.refuses = True
                machine.now += 0.6 * LIFE
                while machine.entries():
                    await asyncio.sleep(0.01)
        machine.ca.refuses, machine.ca.away = False, True
        async with machine.agent() as sessions:
            await waits(sessions, mine)

    asyncio.run(scene())


def test_a_cached_token_that_is_refused_in_the_next_run_has_no_entry_any_more(machine: Machine) -> None:
    mine = token(life=90_000)

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, mine)
        machine.ca.refuses = True
        machine.now += 0.6 * LIFE
        async with machine.agent() as sessions:
            await opened(sessions, mine)
            async with asyncio.timeout(10):
                while machine.entries():
                    await asyncio.sleep(0.01)

    asyncio.run(scene())


def test_a_ca_that_is_away_takes_no_entry(machine: Machine) -> None:
    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, token(life=90_000))
            machine.ca.away, asked = True, len(machine.ca.asked)
            machine.now += 0.6 * LIFE
            async with asyncio.timeout(10):
                while len(machine.ca.asked) == asked:
                    await asyncio.sleep(0.01)
        assert machine.entries() == {name(token(life=90_000))}

    asyncio.run(scene())


def test_a_token_without_an_end_is_not_kept(machine: Machine) -> None:
    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, token(life=None))
        assert machine.entries() == set()

    asyncio.run(scene())


def test_a_broken_entry_is_replaced_and_said_once(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    tokens = [token(mark) for mark in "abc"]

    async def scene() -> None:
        async with machine.agent() as sessions:
            for one in tokens:
                await opened(sessions, one)
        for one in tokens:
            (machine.directory / f"{name(one)}.json").write_bytes(b"garbled")
        caplog.clear()
        async with machine.agent() as sessions:
            served = [serial(await opened(sessions, one)) for one in tokens]
        machine.ca.away = True
        async with machine.agent() as sessions:
            assert [serial(await opened(sessions, one)) for one in tokens] == served

    asyncio.run(scene())
    said = [record for record in caplog.records if "not used" in record.message]
    assert [record.levelno for record in said if record.levelno >= logging.WARNING] == [logging.WARNING]


def test_a_fault_in_the_cache_leaves_the_ca_to_ask(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object) -> None:
        raise ZeroDivisionError

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, token())
        monkeypatch.setattr("meshpki.agent.node.cache.NodeCache.load", fault)
        monkeypatch.setattr("meshpki.agent.node.cache.NodeCache.store", fault)
        async with machine.agent() as sessions:
            await opened(sessions, token())

    asyncio.run(scene())


@dataclass
class Disk:
    """What entries are written to."""

    full: bool = True
    tries: int = 0

    def write(self, path: Path, content: bytes, *, time: float) -> None:
        self.tries += 1
        if self.full:
            raise MachineError("No space left on device")
        write_atomically(path, content, time=time)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    disk = Disk()
    monkeypatch.setattr(node_cache, "write_atomically", disk.write)
    return disk


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def test_what_a_full_disk_did_not_take_is_written_when_there_is_room(machine: Machine, disk: Disk) -> None:
    """Not only with the next renewal, which is hours away; and not for a token that is gone."""
    stays, goes = token("stays"), token("goes")

    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, stays)
            gone = await opened(sessions, goes)
            await until(lambda: disk.tries >= 2)
            gone.close()
            machine.now += Limits().grace_seconds + 1
            await until(lambda: len(standing(sessions)) == 1)
            assert machine.entries() == set()
            disk.full = False
            machine.now += node_cache_line.RETRY_SECONDS + 1
            await until(lambda: machine.entries() == {name(stays)})
            await asyncio.sleep(0.1)
            tries = disk.tries
            machine.now += node_cache_line.RETRY_SECONDS + 1
            await asyncio.sleep(0.2)
            assert disk.tries == tries, "once is enough"
        assert machine.entries() == {name(stays)}
        assert machine.ca.asked == [stays, goes]

    asyncio.run(scene())


def test_a_token_that_is_refused_is_owed_no_entry(tmp_path: Path, disk: Disk) -> None:
    now = time.time()
    line, kept = NodeCacheLine(tmp_path / "cache", bounds_for(4)), Held(real_snapshot(AUTHORITY), now + 10)
    good, bad = (TokenKey(mark * 32) for mark in (b"g", b"b"))
    for key in (good, bad):
        line.keep(key, int(now) + 1800, kept, now)
    line.drop(bad)
    line.close()
    assert line.owed(now) == (good,)
    assert line.owed(now + 1) == (), "not all the time"
    assert line.owed(now - 600) == (good,), "a clock that was set back stops nothing"
    line.give_up(good)
    assert line.owed(now + 600) == ()


def test_a_stream_that_leaves_while_its_entry_is_read(machine: Machine) -> None:
    async def scene() -> None:
        async with machine.agent() as sessions:
            await opened(sessions, token())
        async with machine.agent() as sessions:
            for pause in (0, 0.0001, 0.001):
                task = asyncio.create_task(opened(sessions, token()))
                await asyncio.sleep(pause)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            await opened(sessions, token())

    asyncio.run(scene())


def test_without_a_cache_nothing_is_written_and_nothing_read(machine: Machine) -> None:
    async def scene() -> None:
        async with machine.agent(cached=False) as sessions:
            await opened(sessions, token())
        assert not machine.directory.exists()
        async with machine.agent() as sessions:
            await opened(sessions, token())
        machine.ca.away = True
        async with machine.agent(cached=False) as sessions:
            await waits(sessions, token())

    asyncio.run(scene())
