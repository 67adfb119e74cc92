"""Calls that are refused, thousands of them: nothing of them stays, and no collector of cycles is needed for it."""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.agent.node.limits import Limits
from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.renewal.keeper import Wish
from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.agent.workload.service import workload_methods
from meshpki.wire import methods
from support.agent_process import fake_token
from support.snapshots import snapshot

if TYPE_CHECKING:
    from meshpki.agent.socket.sessions import Sessions

SECOND = 20.0
CALLS = 50
LARGE = 512 * 1024
"""More than the window that a client may fill unread."""
SPIFFE = ("workload.spiffe.io", "true")
EXPIRED = ("authorization", f"Bearer {fake_token(expires_at=time.time() - 60)}")
Code = grpc.StatusCode
Case = tuple[str, bool, tuple[tuple[str, str], ...], bytes, grpc.StatusCode]
CASES: dict[str, Case] = {
    "no token": (methods.STREAM_SECRETS, True, (), b"", Code.UNAUTHENTICATED),
    "an expired token": (methods.STREAM_SECRETS, True, (EXPIRED,), b"", Code.UNAUTHENTICATED),
    "to a SPIFFE client": (methods.FETCH_X509_SVID, True, (SPIFFE, EXPIRED), b"", Code.PERMISSION_DENIED),
    "no header": (methods.FETCH_X509_SVID, True, (), b"", Code.INVALID_ARGUMENT),
    "a profile that is off": (methods.FETCH_JWT_SVID, False, (SPIFFE,), b"", Code.UNIMPLEMENTED),
    "no message": (methods.FETCH_SECRETS, False, (), b"\xff" * 11, Code.INVALID_ARGUMENT),
    "another type": (methods.DELTA_SECRETS, False, (), b"\x12\x01x", Code.INVALID_ARGUMENT),
}
"""Method, whether it is a node's socket, headers, request, status."""
OF_A_CALL = (
    "Http2Call",
    "_Stream",
    "Request",
    "_NodeSession",
    "CallRefusedError",
    "RefusedError",
    "AbortError",
    "traceback",
)


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def alive() -> Counter[str]:
    """What there is of calls, by type."""
    return Counter(name for thing in gc.get_objects() if (name := type(thing).__name__) in OF_A_CALL)


def sessions_of(node: bool) -> Sessions:
    if not node:
        return OneIdentity(Feed(snapshot(1)))
    never: object = None  # an expired token is shown to no CA
    return NodeSessions(Wish(60), never, never, Limits(), at_once=1)  # type: ignore[arg-type]  # see above


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_refused_call_leaves_nothing(short_dir: Path, case: Case) -> None:
    path, node, headers, request, status = case
    (short_dir / "s").mkdir(mode=0o750)
    socket = short_dir / "s" / "socket"

    async def call(channel: grpc.aio.Channel) -> None:
        answer = channel.stream_stream(path, bytes, bytes)(iter([request]), metadata=headers, timeout=SECOND)
        assert await answer.code() is status

    async def main() -> None:
        server = SocketServer(socket, sessions_of(node), (*sds_methods(), *workload_methods()))
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            for _ in range(3):  # what is made once
                await call(channel)
            before = alive()
            for _ in range(CALLS):
                await call(channel)
            async with asyncio.timeout(SECOND):  # the last ones may be ending still
                while any(count - before[name] >= CALLS // 5 for name, count in alive().items()):
                    await asyncio.sleep(0.05)
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("size", [0, 1000, 60_000, LARGE])
def test_who_is_still_sending_hears_why_it_is_refused_every_time(short_dir: Path, size: int) -> None:
    """A client of grpc.aio that hears of it before its message has gone says INTERNAL: one of ten such calls."""

    async def refused(channel: grpc.aio.Channel) -> grpc.StatusCode:
        call = channel.stream_stream(methods.STREAM_SECRETS, bytes, bytes)(timeout=SECOND)
        await call.write(bytes(size))
        return await call.code()

    async def scene(socket: Path) -> None:
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            found = Counter[grpc.StatusCode]()
            for _ in range(20):
                found.update(await asyncio.gather(*(refused(channel) for _ in range(10))))
        assert found == {Code.UNAUTHENTICATED: 200}

    refusing(short_dir, scene)


def test_who_sends_nothing_hears_it_too_and_many_at_one_time(short_dir: Path) -> None:
    async def scene(socket: Path) -> None:
        async with grpc.aio.insecure_channel(f"unix:{socket}") as channel:
            calls = [channel.stream_stream(methods.STREAM_SECRETS, bytes, bytes)(timeout=SECOND) for _ in range(200)]
            assert set(await asyncio.gather(*(call.code() for call in calls))) == {Code.UNAUTHENTICATED}

    refusing(short_dir, scene)


def test_so_does_a_client_of_the_other_grpc(short_dir: Path) -> None:
    def calls(socket: Path) -> Counter[grpc.StatusCode]:
        found = Counter[grpc.StatusCode]()
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            for size in (0, 60_000, LARGE) * 20:
                call = channel.stream_stream(methods.STREAM_SECRETS, bytes, bytes)(iter([bytes(size)]), timeout=SECOND)
                found[call.code()] += 1
        return found

    async def scene(socket: Path) -> None:
        assert await asyncio.to_thread(calls, socket) == {Code.UNAUTHENTICATED: 60}

    refusing(short_dir, scene)


def refusing(short_dir: Path, scene: Callable[[Path], Awaitable[None]]) -> None:
    """Run `scene` beside a node's socket that knows nobody."""
    (short_dir / "s").mkdir(mode=0o750)
    socket = short_dir / "s" / "socket"

    async def main() -> None:
        server = SocketServer(socket, sessions_of(node=True), sds_methods())
        await server.start()
        try:
            await scene(socket)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 60))
