"""What gRPC's own client says on one connection with a thousand streams is no flood."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import grpc

from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.listener import Listener

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meshpki.agent.socket.http2.call import Http2Call
    from meshpki.agent.socket.http2.headers import Request

STREAMS = Limits(message=1, headers=1).streams
ROUNDS = 3


def test_a_thousand_streams_that_rotate_at_once_and_are_cancelled_at_once(short_dir: Path) -> None:
    """It opens a window or two for each message, and then resets each stream, some of which nobody has answered."""
    rotated = [asyncio.Event() for _ in range(ROUNDS)]
    acknowledged: list[int] = [0] * (ROUNDS + 1)
    waiting = 0

    async def answer(call: Http2Call, request: Request) -> tuple[int, str]:
        nonlocal waiting
        while request.path == "/a/rotating" and await call.read() is not None:
            number = next(at for at, count in enumerate(acknowledged) if count < STREAMS)
            acknowledged[number] += 1
            if number == ROUNDS:
                break
            await rotated[number].wait()
            await call.write(bytes(3000))
        waiting += 1
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    def all_have(number: int) -> bool:
        return acknowledged[number] == STREAMS

    async def stream(channel: grpc.aio.Channel, path: str) -> None:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(path)()
        await call.write(b"first")
        while await call.read() is not grpc.aio.EOF:
            await call.write(b"seen")

    async def held(channel: grpc.aio.Channel, path: str) -> None:
        """A thousand streams, until all of them wait; then none."""
        nonlocal waiting
        waiting = 0
        streams = [asyncio.create_task(stream(channel, path)) for _ in range(STREAMS)]
        for number, event in enumerate(rotated if path == "/a/rotating" else ()):
            await until(partial(all_have, number), streams)
            event.set()
        await until(lambda: waiting == STREAMS, streams)
        for one in streams:
            one.cancel()
        assert {type(end) for end in await asyncio.gather(*streams, return_exceptions=True)} == {asyncio.CancelledError}

    async def main() -> None:
        listener = Listener(answer, Limits(message=1000, headers=4096), 3)
        listener.listen(short_dir / "s")
        async with grpc.aio.insecure_channel(f"unix:{short_dir / 's'}") as channel:
            await held(channel, "/a/rotating")
            await held(channel, "/a/waiting")
        await listener.stop(0.5)

    asyncio.run(asyncio.wait_for(main(), 150))


async def until(done: Callable[[], bool], streams: list[asyncio.Task[None]]) -> None:
    while not done():
        assert not any(one.done() for one in streams), "a stream has ended"
        await asyncio.sleep(0.01)
