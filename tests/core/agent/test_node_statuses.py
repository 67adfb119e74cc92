"""Node mode, every method: how a call ends that gets nothing, and after how long (facts: Workload API, section 6)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from meshpki.agent.node import run
from meshpki.agent.node.config import NodeConfig
from meshpki.agent.node.limits import Limits
from meshpki.agent.node.run import NodeAgent
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.renewal.ca_client import Answer, CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.keeper import Wish
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import PATIENCE_SECONDS, SocketServer
from meshpki.agent.workload.service import workload_methods
from meshpki.wire import methods
from support.agent_process import fake_token
from support.fake_ca import FakeAuthority
from support.fixed_roots import FixedRoots

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from meshpki.agent.renewal.ca_client import BundleHeld
    from meshpki.agent.renewal.credential import Credential

AUTHORITY = FakeAuthority()
TABLE = (*sds_methods(), *workload_methods())
SPIFFE = ("workload.spiffe.io", "true")
STREAMS = (methods.STREAM_SECRETS, methods.DELTA_SECRETS)
IMPATIENT = (methods.FETCH_SECRETS, methods.FETCH_X509_SVID, methods.FETCH_X509_BUNDLES)
DISCOVERY = (*STREAMS, methods.FETCH_SECRETS)
ALL = (*DISCOVERY, methods.FETCH_X509_SVID, methods.FETCH_X509_BUNDLES)
LONG, SHORT = 20.0, 0.3
Code = grpc.StatusCode


class Ca:
    """Answers each call with what it has been told to."""

    def __init__(self, verdict: str) -> None:
        self.verdict = verdict

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        match self.verdict:
            case "away":
                raise CaUnavailableError("UNAVAILABLE", "away", todo="wait")
            case "silent":
                await asyncio.get_running_loop().create_future()
            case "refuses":
                raise CaRefusedError("UNAUTHENTICATED", "token_revoked", "refused", todo="none")
        return Answer(tuple(AUTHORITY.answer(csr_pem)))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        pass


@dataclass(frozen=True)
class Caller:
    channel: grpc.aio.Channel

    async def ask(self, method: str, *, token: str | None = "a", seconds: float = LONG) -> tuple[Code, str]:
        """Make a call, and say how it ended; OK as soon as something came."""
        bearer = () if token is None else (("authorization", f"Bearer {text_of(token)}"),)
        stream = self.channel.stream_stream(method, bytes, bytes)
        call = stream(iter([b""]), metadata=(SPIFFE, *bearer), timeout=seconds)
        with contextlib.suppress(grpc.aio.AioRpcError):
            if await call.read() is not grpc.aio.EOF:
                call.cancel()
                return Code.OK, ""
        return await call.code(), await call.details() or ""


@functools.cache
def text_of(mark: str) -> str:
    """The same one for a mark, though a second may have begun meanwhile."""
    return fake_token(expires_at=time.time() + 86_400, mark=mark)


def serving(
    directory: Path,
    verdict: str,
    scene: Callable[[Caller], Awaitable[None]],
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    patience: float = LONG,
) -> None:
    """Run `scene` beside a node's socket."""

    async def main() -> None:
        (directory / "s").mkdir(mode=0o750)
        path = directory / "s" / "socket"
        sessions = NodeSessions(Wish(3600), Ca(verdict), FixedRoots(AUTHORITY), limits, at_once=4)
        server, stopping = SocketServer(path, sessions, TABLE, patience=patience), asyncio.Event()
        running = asyncio.create_task(sessions.run(stopping))
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                await scene(Caller(channel))
            async with asyncio.timeout(LONG):
                while sessions._streams:
                    await asyncio.sleep(0.01)
        finally:
            await server.stop()
            stopping.set()
            await running

    asyncio.run(asyncio.wait_for(main(), 60))


def test_an_accepted_token_gets_something_from_each(short_dir: Path) -> None:
    async def scene(caller: Caller) -> None:
        for method in ALL:
            assert await caller.ask(method) == (Code.OK, "")

    serving(short_dir, "accepts", scene)


@pytest.mark.parametrize("token", [None, "a"], ids=["no token", "a token that the CA refuses"])
def test_who_is_nobody_hears_it_at_once(short_dir: Path, token: str | None) -> None:
    """Whether its client has a deadline or not: the CA has answered, or need not be asked."""

    async def scene(caller: Caller) -> None:
        for method in ALL:
            code, said = await caller.ask(method, token=token)
            assert code is (Code.UNAUTHENTICATED if method in DISCOVERY else Code.PERMISSION_DENIED)
            assert "token" in said

    serving(short_dir, "refuses", scene)


@pytest.mark.parametrize("verdict", ["away", "silent"])
def test_while_the_ca_says_nothing_streams_of_discovery_wait_and_the_others_are_told_to_come_back(
    short_dir: Path, verdict: str
) -> None:
    async def scene(caller: Caller) -> None:
        async with asyncio.TaskGroup() as group:
            given_up = [group.create_task(caller.ask(method, token=method[-5:])) for method in IMPATIENT]
            waiting = [group.create_task(caller.ask(method, token=method[-5:], seconds=1.5)) for method in STREAMS]
        said = "the CA has not answered for this call's token yet; to do: try again"
        assert {task.result() for task in given_up} == {(Code.UNAVAILABLE, said)}
        assert {task.result()[0] for task in waiting} == {Code.DEADLINE_EXCEEDED}, "their own"

    serving(short_dir, verdict, scene, patience=SHORT)


def config_default(name: str) -> float:
    (found,) = (field for field in dataclasses.fields(NodeConfig) if field.name == name)
    assert isinstance(found.default, float)
    return found.default


def test_who_waits_for_how_long() -> None:
    """For longer than one call to the CA: what is heard is its refusal, where there is one."""
    assert config_default("call_seconds") < PATIENCE_SECONDS
    assert {row.path for row in TABLE if row.impatient} == set(IMPATIENT)


@pytest.mark.parametrize(("call", "patience"), [(0.1, 15), (10, 15), (10.5, 15.5), (45, 50), (300, 305)])
def test_whoever_lets_the_ca_take_its_time_is_waited_for_as_long(short_dir: Path, call: float, patience: float) -> None:
    config = NodeConfig("ca:1", short_dir / "roots", "ca", short_dir / "s" / "socket", call_seconds=call)
    assert config.patience_seconds == patience


def test_a_node_agents_socket_waits_as_its_configuration_says(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Told(SocketServer):
        def __init__(self, *args: Any, **more: Any) -> None:  # Any: as they are given
            super().__init__(*args, **more)
            told.append(more["patience"])

    async def main() -> None:
        stopping = asyncio.Event()
        running = asyncio.create_task(NodeAgent(config).run(stopping))
        async with asyncio.timeout(LONG):
            while not config.socket.is_socket():
                await asyncio.sleep(0.01)
        stopping.set()
        await running

    monkeypatch.setattr(run, "SocketServer", Told)
    config = NodeConfig("127.0.0.1:1", short_dir / "roots", "ca", short_dir / "s" / "socket", call_seconds=45)
    asyncio.run(asyncio.wait_for(main(), 60))
    assert told == [50]


@pytest.mark.parametrize("limits", [Limits(waiting=0), Limits(streams=1)], ids=["many tokens", "many streams"])
def test_a_busy_agent_says_so_in_each_standards_words(short_dir: Path, limits: Limits) -> None:
    async def scene(caller: Caller) -> None:
        for method in ALL:
            calls = [asyncio.create_task(caller.ask(method, token=method[-5:])) for _ in range(2)]
            done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            wanted = Code.RESOURCE_EXHAUSTED if method in DISCOVERY else Code.UNAVAILABLE
            assert {task.result()[0] for task in done} == {wanted}
            for waiting in others:
                waiting.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    serving(short_dir, "silent", scene, limits=limits)
