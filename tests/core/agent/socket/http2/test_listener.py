"""Who is taken on the socket: so many and no more, nobody while there is no file, and everybody again afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.listener import Listener
from support.http2 import PING, PREFACE, SETTINGS, frame

if TYPE_CHECKING:
    from meshpki.agent.socket.http2.call import Http2Call
    from meshpki.agent.socket.http2.headers import Request

LIMITS = Limits(message=1000, headers=1000)


async def nothing(call: Http2Call, request: Request) -> tuple[int, str]:
    return 0, ""


def serving(path: Path, scene: Callable[[Listener], Awaitable[None]], connections: int = 3) -> None:
    async def main() -> None:
        listener = Listener(nothing, LIMITS, connections)
        listener.listen(path)
        try:
            await scene(listener)
        finally:
            await listener.stop(0.5)

    asyncio.run(asyncio.wait_for(main(), 60))


class Client:
    """A connection to the socket, greeted or not, closed at the end of a block."""

    def __init__(self, path: Path, said: bytes = PREFACE + frame(SETTINGS)) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(0)
        self._path, self._said = path, said

    async def __aenter__(self) -> Self:
        await asyncio.get_running_loop().sock_connect(self._socket, str(self._path))
        with contextlib.suppress(OSError):
            await self.say(self._said)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._socket.close()

    async def say(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def hear(self) -> bytes:
        """Some bytes; none when it is over."""
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, 65_536)
        except ConnectionResetError:
            return b""


def test_one_more_is_closed_at_once_until_there_is_room_again(short_dir: Path) -> None:
    path = short_dir / "s"

    async def scene(listener: Listener) -> None:
        async with AsyncExitStack() as held:
            clients = [await held.enter_async_context(Client(path)) for _ in range(3)]
            for client in clients:
                assert await client.hear()
            async with Client(path) as late:
                assert not await late.hear()
            await clients[0].__aexit__()
            while True:
                async with Client(path) as late:
                    if await late.hear():
                        break

    serving(path, scene)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EPERM])
def test_without_a_file_nobody_is_taken_and_somebody_afterwards(
    short_dir: Path, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, tries, full = short_dir / "s", 0, True
    accept = socket.socket.accept

    def failing(self: socket.socket) -> object:
        nonlocal tries
        tries += 1
        if full:
            raise OSError(number, os.strerror(number))
        return accept(self)

    async def scene(listener: Listener) -> None:
        nonlocal full
        async with Client(path) as client:
            while tries < 3:
                await asyncio.sleep(0.01)
            full = False
            assert await client.hear()
            assert tries < 20, "it does not spin"

    monkeypatch.setattr(socket.socket, "accept", failing)
    with caplog.at_level(logging.INFO):
        serving(path, scene)
    (said,) = caplog.records
    assert said.getMessage() == "no connection can be taken now: this machine is at fault"
    assert vars(said)["seen"] == os.strerror(number)
    assert ("ulimit" in vars(said)["todo"]) == (number == errno.EMFILE)


def test_a_ping_is_answered_and_http_1_hears_nothing(short_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = short_dir / "s"

    async def scene(listener: Listener) -> None:
        async with Client(path) as client:
            await client.say(frame(PING, payload=b"12345678"))
            heard = b""
            while frame(PING, 1, b"12345678") not in heard:
                heard += await client.hear()
        for _ in range(5):
            async with Client(path, b"GET / HTTP/1.1\r\nHost: canary\r\n\r\n") as client:
                while await client.hear():
                    pass

    with caplog.at_level(logging.INFO):
        serving(path, scene)
    (said,) = caplog.records
    assert (said.getMessage(), said.levelname) == ("a client's connection is ended", "WARNING")
    assert not said.exc_info
    assert "canary" not in caplog.text


def test_who_stays_is_not_waited_for(short_dir: Path) -> None:
    path = short_dir / "s"

    async def scene(listener: Listener) -> None:
        late = Client(path)
        async with Client(path) as one, Client(path) as two:
            assert await one.hear()
            assert await two.hear()
            await listener.stop(0.1)
            await listener.stop(0.1)
            for client in (one, two):
                while await client.hear():
                    pass
            with pytest.raises(ConnectionRefusedError):
                await late.__aenter__()
            await late.__aexit__()

    serving(path, scene)


def test_a_path_that_is_taken_is_the_caller_s_to_tell(short_dir: Path) -> None:
    async def scene(listener: Listener) -> None:
        with pytest.raises(OSError, match="in use"):
            Listener(nothing, LIMITS, 1).listen(short_dir / "s")

    serving(short_dir / "s", scene)
