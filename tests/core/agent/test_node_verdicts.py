"""A node's sessions and a CA that is wrong for a moment, or asked by a client that goes and comes; and floods."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.agent.node import sessions as node
from meshpki.agent.node.actions import Phase, Start, Stop, TokenKey, TurnAway
from meshpki.agent.node.limits import Limits
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.node.table import NodeTable
from meshpki.agent.renewal.ca_client import Answer, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.credential import TokenCredential
from meshpki.agent.renewal.keeper import Wish
from meshpki.agent.socket.sessions import CallRefusedError
from support.agent_process import fake_token
from support.fake_ca import FakeAuthority
from support.fixed_roots import FixedRoots

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from meshpki.agent.node.actions import Action
    from meshpki.agent.renewal.ca_client import BundleHeld
    from meshpki.agent.renewal.credential import Credential
    from meshpki.agent.socket.sessions import Session

LIFE = 3600
EXPIRES = time.time() + 90_000
AUTHORITY = FakeAuthority()
REFUSAL = CaRefusedError("UNAUTHENTICATED", "token_unknown_key", "refused", todo="none")
AWAY = CaUnavailableError("UNAVAILABLE", "away", todo="wait")


class Ca:
    """Signs by the machine's clock, or raises; lets nobody in while it is shut."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.error: Exception | None = None
        self.life = LIFE
        self.asked: Counter[str] = Counter()
        self.shut: asyncio.Event | None = None

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        assert isinstance(credential, TokenCredential)
        self.asked[credential.token] += 1
        if self.shut is not None:
            await self.shut.wait()
        if self.error is not None:
            raise self.error
        AUTHORITY.now = self.machine.now
        return Answer(tuple(AUTHORITY.answer(csr_pem, ends=self.life)))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        pass


class Machine:
    """One agent with a clock that stands until it is told."""

    def __init__(self, limits: Limits) -> None:
        self.now = time.time()
        self.ca = Ca(self)
        self.sessions = NodeSessions(
            Wish(LIFE), self.ca, FixedRoots(AUTHORITY), limits, at_once=2, clock=lambda: self.now, chance=lambda: 0.5
        )

    async def open(self, text: str) -> Session:
        async with asyncio.timeout(20):
            return await self.sessions.open((("authorization", f"Bearer {text}"),))

    def opening(self, text: str) -> asyncio.Task[Session]:
        return asyncio.create_task(self.sessions.open((("authorization", f"Bearer {text}"),)))

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():
                await asyncio.sleep(0.002)

    def in_phase(self, phase: Phase) -> int:
        return self.sessions.phases()[phase]


@asynccontextmanager
async def running(limits: Limits | None = None) -> AsyncIterator[Machine]:
    machine, stopping = Machine(limits or Limits()), asyncio.Event()
    task = asyncio.create_task(machine.sessions.run(stopping))
    try:
        yield machine
    finally:
        stopping.set()
        await asyncio.wait_for(task, 20)
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set(), "nothing goes on"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "LONGEST_SLEEP_SECONDS", 0.02)


def token(mark: str = "a") -> str:
    return fake_token(expires_at=EXPIRES, mark=mark)


def serial(session: Session) -> int:
    assert session.feed.current is not None
    return session.feed.current.serial


def test_one_wrong_verdict_ends_nothing_and_the_next_right_one_heals() -> None:
    async def scene() -> None:
        async with running() as machine:
            first = await machine.open(token())
            before = serial(first)
            machine.ca.error = REFUSAL
            machine.now += 0.6 * LIFE
            async with asyncio.timeout(20):
                await asyncio.wait([first.must_reconnect])
            assert machine.in_phase(Phase.RECONNECTING) == 1
            first.close()
            again = await machine.open(token())
            assert serial(again) == before, "what is held is served"
            asked = machine.ca.asked[token()]
            machine.ca.error = None
            machine.now += 40  # the first step of the slow ladder
            await machine.until(lambda: serial(again) != before)
            await machine.until(lambda: machine.in_phase(Phase.SERVING) == 1)
            assert machine.ca.asked[token()] == asked + 1
            assert not again.must_reconnect.done(), "nobody is asked back for what was healed"
            again.close()

    asyncio.run(scene())


def test_a_thousand_good_tokens_refused_at_once_are_one_warning_and_no_strangers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene() -> None:
        async with running() as machine:
            sessions = [await machine.open(token(f"w{number}")) for number in range(10)]
            machine.ca.error = REFUSAL
            with pytest.raises(CallRefusedError):
                await machine.open(token("stranger"))
            machine.now += 0.6 * LIFE
            await machine.until(lambda: machine.in_phase(Phase.RECONNECTING) == 10)
            for session in sessions:
                session.close()

    asyncio.run(scene())
    said = [record for record in caplog.records if "the CA refused" in record.message]
    assert [vars(record)["state"] for record in said if record.levelno >= logging.WARNING] == ["denied", "denied"]


def test_a_ca_that_is_away_is_one_warning_for_all(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "meshpki.agent")

    async def scene() -> None:
        async with running() as machine:
            sessions = [await machine.open(token(f"w{number}")) for number in range(10)]
            machine.ca.error = AWAY
            machine.now += 0.6 * LIFE
            await machine.until(lambda: all(machine.ca.asked[token(f"w{number}")] == 2 for number in range(10)))
            for session in sessions:
                session.close()

    asyncio.run(scene())
    said = [record for record in caplog.records if "the CA gave no answer" in record.message]
    assert [record.levelno for record in said].count(logging.WARNING) == 1
    assert len(said) >= 8, "each of them at debug level"


def test_a_token_that_stays_refused_is_tried_ever_slower_until_its_certificate_is_over() -> None:
    async def scene() -> None:
        async with running() as machine:
            session = await machine.open(token())
            machine.ca.error = REFUSAL
            ends = session.feed.current.not_after if session.feed.current else 0
            machine.now += 0.6 * LIFE
            await machine.until(lambda: machine.in_phase(Phase.RECONNECTING) == 1)
            session.close()
            session = await machine.open(token())
            while machine.now < ends - 40:
                machine.now += 20
                await asyncio.sleep(0.05)
            asked = machine.ca.asked[token()]
            assert 3 <= asked <= 14, "30, 60, 120, 240, 300 s ... of 24 minutes"
            machine.now = ends + 1
            await machine.until(lambda: session.must_reconnect.done() and session.feed.closed)
            session.close()

    asyncio.run(scene())


def test_a_ca_that_gives_shorter_lives_now_is_asked_on() -> None:
    async def scene() -> None:
        async with running() as machine:
            session = await machine.open(token())
            machine.ca.life = 600
            for _ in range(3):
                before = serial(session)
                machine.now += 0.55 * LIFE if machine.ca.asked[token()] == 1 else 330
                await machine.until(lambda: serial(session) != before)  # noqa: B023 - called within this turn
            assert machine.in_phase(Phase.SERVING) == 1
            assert not session.must_reconnect.done()
            session.close()

    asyncio.run(scene())


def test_a_token_that_brings_nothing_more_is_sent_no_more() -> None:
    """A CA that clamps to the token's life: the second certificate ends as the first did, and a third would, too."""

    async def scene() -> None:
        async with running() as machine:
            text = fake_token(expires_at=machine.now + LIFE, mark="clamped")
            ends = machine.now + LIFE
            session = await machine.open(text)
            machine.now += 0.56 * LIFE
            machine.ca.life = int(ends - machine.now)
            async with asyncio.timeout(20):
                await asyncio.wait([session.must_reconnect])
            assert machine.ca.asked[text] == 2
            for _ in range(5):
                machine.now += 200
                await asyncio.sleep(0.1)
            assert machine.ca.asked[text] == 2
            assert machine.in_phase(Phase.RECONNECTING) == 1, "and what it has brought is served to its end"
            session.close()

    asyncio.run(scene())


def test_a_client_that_goes_and_comes_makes_one_question() -> None:
    """While the CA judges, the question stays; when it gave no verdict, the next one waits for its time."""

    async def scene() -> None:
        async with running() as machine:
            machine.ca.shut = asyncio.Event()
            for _ in range(20):
                task = machine.opening(token())
                await machine.until(lambda: machine.ca.asked[token()] == 1)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
            assert machine.in_phase(Phase.WAITING) == 1
            machine.ca.error = AWAY
            machine.ca.shut.set()
            await machine.until(lambda: machine.in_phase(Phase.WAITING) == 0)
            machine.ca.error = None
            task = machine.opening(token())
            await asyncio.sleep(0.2)
            assert machine.ca.asked[token()] == 1
            assert not task.done()
            machine.now += 10
            (await task).close()
            assert machine.ca.asked[token()] == 2

    asyncio.run(scene())


def test_an_answer_that_nobody_waited_for_is_there_for_who_comes_back() -> None:
    async def scene() -> None:
        async with running() as machine:
            machine.ca.shut = asyncio.Event()
            task = machine.opening(token())
            await machine.until(lambda: machine.ca.asked[token()] == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            machine.ca.shut.set()
            await machine.until(lambda: machine.in_phase(Phase.SERVING) == 1)
            (await machine.open(token())).close()
            assert machine.ca.asked[token()] == 1

    asyncio.run(scene())


def test_with_all_places_taken_and_the_ca_away_a_newcomer_gets_one() -> None:
    async def scene() -> None:
        async with running(Limits(waiting=8)) as machine:
            machine.ca.shut = asyncio.Event()
            flood = [machine.opening(token(f"forged-{number}")) for number in range(8)]
            await machine.until(lambda: machine.ca.asked.total() == 2)
            honest = machine.opening(token())
            await machine.until(lambda: any(task.done() for task in flood))
            (out,) = [task for task in flood if task.done()]
            with pytest.raises(CallRefusedError, match="busy"):
                out.result()
            assert machine.ca.asked.total() == 2, "no question was broken off"
            machine.ca.shut.set()
            (await honest).close()
            for task in flood:
                if task is not out:
                    (await task).close()

    asyncio.run(scene())


class Flood:
    """A table, a CA that judges so many tokens a second in the order of their coming, and a clock in small steps.

    A forger opens so many new tokens a second, and keeps each open for as long as it is let. One honest workload tries,
    and tries again a second after it was turned away, as Envoy does.
    """

    STEP = 0.01

    def __init__(self, *, places: int, forged: float, pace: float, seed: int) -> None:
        self.table = NodeTable(Limits(waiting=places))
        self.forged, self.pace = forged, pace
        self.dice = random.Random(seed)
        self.now = 0.0
        self.streams = 0
        self.queue: dict[TokenKey, None] = {}
        self.tries = 0
        self.done = False
        self._owed = self._credit = 0.0

    def open(self, key: TokenKey) -> None:
        self.streams += 1
        self._perform(self.table.open(key, None, self.streams, now=self.now, chance=self.dice.random()))

    def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(key):
                    self.queue[key] = None
                case Stop(key):
                    self.queue.pop(key, None)
                case TurnAway():
                    pass

    def run(self, honest: TokenKey, seconds: float) -> bool:
        """Whether it got in, in time."""
        end, again = self.now + seconds, self.now
        while self.now < end and not self.done:
            self._forge()
            if self.table.phase(honest) is None and self.now >= again:
                self.tries, again = self.tries + 1, self.now + 1.0
                self.open(honest)
            self._judge(honest)
            self.now += self.STEP
            self._perform(self.table.tick(now=self.now))
        return self.done

    def flood(self, seconds: float) -> None:
        """Before the honest one comes."""
        end = self.now + seconds
        while self.now < end:
            self._forge()
            self._judge(None)
            self.now += self.STEP

    def _forge(self) -> None:
        self._owed += self.forged * self.STEP
        while self._owed >= 1:
            self._owed -= 1
            self.open(TokenKey(f"forged-{self.streams}".encode()))

    def _judge(self, honest: TokenKey | None) -> None:
        self._credit = min(self._credit + self.pace * self.STEP, 1 + self.pace * self.STEP)
        while self._credit >= 1 and self.queue:
            self._credit -= 1
            key = next(iter(self.queue))
            del self.queue[key]
            self.table.asks(key, now=self.now)
            if key == honest:
                self.done = True
                self._perform(self.table.accepted(key, self.now + 3600, now=self.now))
            else:
                self._perform(self.table.refused(key, now=self.now))


HONEST = TokenKey(b"honest")


@settings(max_examples=25, deadline=None)
@given(places=st.integers(4, 64), times=st.floats(0.5, 6), seed=st.integers(0, 1 << 32))
def test_an_honest_workload_gets_in_while_a_forger_fills_every_place(places: int, times: float, seed: int) -> None:
    """`times` as many forged tokens as the CA judges: each try is good with a chance of about one in `times`."""
    tries = []
    for run in range(12):
        flood = Flood(places=places, forged=100 * times, pace=100, seed=seed + run)
        flood.flood(3)
        assert flood.run(HONEST, 400), f"{flood.tries} tries, and not in"
        tries.append(flood.tries)
    assert sum(tries) / len(tries) <= 3 * max(times, 1) + 1, tries


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1 << 32))
def test_who_fills_every_place_while_the_ca_is_away_has_gained_nothing_when_it_is_back(seed: int) -> None:
    tries = []
    for run in range(10):
        flood = Flood(places=32, forged=40, pace=0, seed=seed + run)
        flood.flood(10)
        flood.run(HONEST, 20)
        flood.pace, flood.tries = 50, 0
        assert flood.run(HONEST, 100)
        tries.append(flood.tries)
    assert sum(tries) / len(tries) <= 3, tries
