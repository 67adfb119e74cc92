"""Large messages that begin and do not go on: a client has so many of them, whatever streams and connections it has."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING, Self

import grpc
import pytest
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.socket.http2.allowance import Allowance
from meshpki.agent.socket.http2.limits import STREAM_WINDOW, Limits
from meshpki.agent.socket.http2.messages import PREFIX, MessageRefusedError
from meshpki.agent.socket.server import LIMITS, MAX_REQUEST_BYTES, Call, Kind, Method, SocketServer
from meshpki.agent.socket.sessions import Metadata, OneIdentity, Session

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path
    from types import TracebackType

LARGE, HALF, SMALL = 200_000, 150_000, 60_000
SMALL_LIMITS = Limits(message=300_000, headers=4096, large=500_000, unread=8 * STREAM_WINDOW)
"""Two of the large ones, and not three."""
TOO_MUCH = str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])


class ByName:
    """Sessions of several identities."""

    def __init__(self) -> None:
        self._of: defaultdict[str, OneIdentity] = defaultdict(lambda: OneIdentity(Feed()))

    async def open(self, metadata: Metadata) -> Session:
        return await self._of[str(dict(metadata)["who"])].open(metadata)

    def close(self) -> None:
        for one in self._of.values():
            one.close()


async def size_of(session: Session, request: bytes, call: Call) -> bytes:
    return b"%d" % len(request)


TABLE = (Method("/a.B/Size", Kind.UNARY, size_of, bytes, bytes),)


class Client:
    """One connection that sends exactly what it is told to."""

    def __init__(self, path: Path, who: str = "a") -> None:
        self._path = path
        self._who = who
        self._client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._unsent: dict[int, bytes] = {}
        self.heard: defaultdict[int, dict[str, str]] = defaultdict(dict)
        self.data: defaultdict[int, bytes] = defaultdict(bytes)

    async def __aenter__(self) -> Self:
        self._reader, self._writer = await asyncio.open_unix_connection(str(self._path))
        self._client.initiate_connection()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    def begin(self, size: int, sent: int) -> int:
        """Begin a call with a message of that size, of which so much is sent."""
        stream = self._client.get_next_available_stream_id()
        names = {":method": "POST", ":scheme": "http", ":path": "/a.B/Size", ":authority": "x"}
        names |= {"content-type": "application/grpc", "te": "trailers", "who": self._who}
        self._client.send_headers(stream, list(names.items()))
        self._unsent[stream] = PREFIX.pack(0, size) + bytes(sent)
        return stream

    def go_on(self, stream: int, more: int) -> None:
        self._unsent[stream] += bytes(more)

    async def until(self, done: Callable[[], object]) -> None:
        async with asyncio.timeout(60):
            while not done():
                self._send()
                await self._writer.drain()
                for event in self._client.receive_data(await self._reader.read(65_536)):
                    self._hear(event)

    async def sent(self, *streams: int) -> None:
        """All that it was told to send has been taken, as the windows tell: what is half there is waited for."""
        await self.until(lambda: not any(self._unsent[stream] for stream in streams))

    async def status(self, stream: int) -> str:
        await self.until(lambda: "grpc-status" in self.heard[stream])
        return self.heard[stream]["grpc-status"]

    def _send(self) -> None:
        for stream, rest in self._unsent.items():
            room = min(self._client.local_flow_control_window(stream), len(rest)) if rest else 0
            for start in range(0, room, 16_384):
                self._client.send_data(stream, rest[start : min(start + 16_384, room)])
            self._unsent[stream] = rest[room:]
        self._writer.write(self._client.data_to_send())

    def _hear(self, event: events.Event) -> None:
        match event:
            case events.ResponseReceived() | events.TrailersReceived():
                self.heard[event.stream_id].update(dict(event.headers))  # type: ignore[arg-type]  # decoded by h2
            case events.DataReceived():
                self.data[event.stream_id] += event.data
            case events.StreamEnded() | events.StreamReset():
                self._unsent[event.stream_id] = b""


def serving(short_dir: Path, scene: Callable[[Path], Awaitable[None]], limits: Limits = SMALL_LIMITS) -> None:
    async def main() -> None:
        (short_dir / "s").mkdir(mode=0o750)
        path = short_dir / "s" / "socket"
        server = SocketServer(path, ByName(), TABLE, limits=limits)
        await server.start()
        try:
            await scene(path)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_one_too_many_is_refused_and_everything_else_goes_on(short_dir: Path) -> None:
    async def scene(path: Path) -> None:
        async with Client(path) as one, Client(path) as two, Client(path, "b") as other:
            held = [one.begin(LARGE, HALF), one.begin(LARGE, HALF)]
            await one.sent(*held)
            beyond = two.begin(LARGE, HALF)
            assert await two.status(beyond) == TOO_MUCH
            assert "send them one after the other" in two.heard[beyond]["grpc-message"]
            small = two.begin(SMALL, SMALL)
            assert await two.status(small) == "0", "what fits into a window is not counted"
            theirs = other.begin(LARGE, LARGE)
            assert await other.status(theirs) == "0", "nobody else is concerned"
            one.go_on(held[0], LARGE - HALF)
            assert await one.status(held[0]) == "0"
            assert one.data[held[0]][5:] == b"%d" % LARGE
            again = two.begin(LARGE, LARGE)
            assert await two.status(again) == "0", "there is room for one"

    serving(short_dir, scene)


def test_whoever_leaves_gives_back_what_he_held(short_dir: Path) -> None:
    async def scene(path: Path) -> None:
        async with Client(path) as stays:
            for _ in range(3):
                async with Client(path) as leaves:
                    held = [leaves.begin(LARGE, HALF), leaves.begin(LARGE, HALF)]
                    await leaves.sent(*held)
                    assert await stays.status(stays.begin(LARGE, HALF)) == TOO_MUCH
            async with asyncio.timeout(60):
                while await stays.status(stays.begin(LARGE, LARGE)) != "0":  # a moment after he has left
                    await asyncio.sleep(0.01)

    serving(short_dir, scene)


def test_an_allowance() -> None:
    one = Allowance(10)
    one.take(6)
    with pytest.raises(MessageRefusedError, match="5 bytes, and 4 may be"):
        one.take(5)
    one.take(4)
    one.give(6)
    one.take(6)


def test_a_few_messages_of_the_largest_kind_are_always_taken() -> None:
    assert LIMITS.large >= 4 * MAX_REQUEST_BYTES
