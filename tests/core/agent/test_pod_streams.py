"""Pod mode: a workload that opens streams and forgets them is told so, and takes no more of the agent than that."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket import connections
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import MOST_STREAMS, CallRefusedError, OneIdentity
from meshpki.agent.workload.service import workload_methods
from meshpki.wire import methods
from support.fake_ca import FakeAuthority
from support.real_snapshots import real_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

Code = grpc.StatusCode
MOST = 3
TOO_MANY = f"{MOST} streams are open on this socket, which is as many as there may be"
FACES = {
    methods.STREAM_SECRETS: Code.RESOURCE_EXHAUSTED,
    methods.DELTA_SECRETS: Code.RESOURCE_EXHAUSTED,
    methods.FETCH_SECRETS: Code.RESOURCE_EXHAUSTED,
    methods.FETCH_X509_SVID: Code.UNAVAILABLE,  # as that standard has it
    methods.FETCH_X509_BUNDLES: Code.UNAVAILABLE,
}
Stream = Any  # Any: grpc.aio's half of a stub


class Client:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel

    def stream(self, method: str) -> Stream:
        """One that has sent a request and says nothing more."""
        stream = self._channel.stream_stream(method, bytes, bytes)
        return stream(self._one(), metadata=(("workload.spiffe.io", "true"),), timeout=60)

    @staticmethod
    async def _one() -> Any:  # Any: an iterator of requests
        yield b""
        await asyncio.get_running_loop().create_future()


def serving(short_dir: Path, scene: Callable[[Client], Awaitable[None]]) -> None:
    async def main() -> None:
        (short_dir / "s").mkdir(mode=0o750)
        path = short_dir / "s" / "socket"
        sessions = OneIdentity(Feed(real_snapshot(FakeAuthority())), most=MOST)
        server = SocketServer(path, sessions, (*sds_methods(), *workload_methods()))
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                await scene(Client(channel))
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 90))


@pytest.mark.parametrize(("method", "code"), FACES.items(), ids=[path.rpartition("/")[2] for path in FACES])
def test_one_more_is_told_so_and_the_others_go_on(
    short_dir: Path, method: str, code: Code, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(client: Client) -> None:
        held = [client.stream(methods.FETCH_X509_SVID) for _ in range(MOST)]
        for one in held:
            assert await one.read()
        beyond = client.stream(method)
        assert await beyond.code() is code
        assert (await beyond.details()).startswith(TOO_MANY)
        assert not any(one.done() for one in held)
        held[0].cancel()
        async with asyncio.timeout(30):
            while not await client.stream(methods.FETCH_X509_BUNDLES).read():  # a moment after it has left
                await asyncio.sleep(0.01)

    with caplog.at_level(logging.WARNING):
        serving(short_dir, scene)
    said = [record for record in caplog.records if getattr(record, "seen", "") == TOO_MANY]
    assert said
    assert said[0].message == "a call is refused"


def test_whoever_has_left_is_not_counted() -> None:
    async def main() -> None:
        sessions = OneIdentity(Feed(), most=1)
        for _ in range(3):
            one = await sessions.open(())
            with pytest.raises(CallRefusedError, match="1 streams are open"):
                await sessions.open(())
            one.close()

    asyncio.run(main())


def test_no_workload_in_its_senses_comes_near() -> None:
    assert MOST_STREAMS >= 4 * connections.POD
