"""Node mode on a machine whose clock jumps, or that was asleep: one look for all, and every keeper is told."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from meshpki.agent.node import sessions as node
from meshpki.agent.node.limits import Limits
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.renewal.ca_client import Answer
from meshpki.agent.renewal.keeper import Wish
from support.agent_process import fake_token
from support.fake_ca import FakeAuthority
from support.fixed_roots import FixedRoots

if TYPE_CHECKING:
    import pytest

    from meshpki.agent.renewal.ca_client import BundleHeld
    from meshpki.agent.renewal.credential import Credential

WORKLOADS = 20
LIFE = 3600.0


class Ca:
    """Signs at once by the clock of the machine under test."""

    def __init__(self) -> None:
        self.authority = FakeAuthority()
        self.calls = 0

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        self.calls += 1
        return Answer(tuple(self.authority.answer(csr_pem, ends=LIFE)))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        pass


def test_a_jump_past_the_renewal_of_every_workload_is_noticed_by_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "LONGEST_SLEEP_SECONDS", 0.05)
    ca, skew = Ca(), [0.0]

    async def scene() -> None:
        sessions = NodeSessions(
            Wish(int(LIFE)),
            ca,
            FixedRoots(ca.authority),
            Limits(),
            at_once=4,
            clock=lambda: time.time() + skew[0],
            chance=lambda: 0.5,
        )
        stopping = asyncio.Event()
        running = asyncio.create_task(sessions.run(stopping))
        tokens = [fake_token(expires_at=time.time() + 86_400, mark=str(number)) for number in range(WORKLOADS)]
        opened = await asyncio.gather(*(sessions.open((("authorization", f"Bearer {one}"),)) for one in tokens))
        assert ca.calls == WORKLOADS
        await asyncio.sleep(0.5)  # ten looks at a clock that is right
        assert ca.calls == WORKLOADS
        serials = [session.feed.current.serial for session in opened if session.feed.current]
        skew[0] = 0.6 * LIFE
        async with asyncio.timeout(20):
            while any(session.feed.current.serial in serials for session in opened if session.feed.current):
                await asyncio.sleep(0.02)
        assert ca.calls == 2 * WORKLOADS
        stopping.set()
        await running

    asyncio.run(scene())
