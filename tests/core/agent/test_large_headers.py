"""Every token that our parser takes arrives, however a client writes its header; a longer one is refused clearly."""

from __future__ import annotations

import asyncio
import base64
import socket
from collections import Counter
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.agent.node.token import AUTHORIZATION, ISTIO_HEADER, token_of
from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import MAX_METADATA_BYTES, SocketServer
from meshpki.agent.socket.sessions import CallRefusedError, OneIdentity
from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.reasons import TokenRefusedError
from meshpki.wire import methods
from support.http2 import DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, headers_of
from support.snapshots import snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from meshpki.agent.socket.sessions import Metadata, Session

SECOND = 30.0
TIMES = 25
"""gRPC refuses by chance between its two limits: each length is tried as often."""
LONGEST = (b"eyJhbGciOiJSUzI1NiJ9.eyJleHAiOjF9." + b"x" * MAX_TOKEN_BYTES)[:MAX_TOKEN_BYTES]


class ByToken(OneIdentity):
    """Node mode's rule in small; remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(Feed(snapshot(1)))
        self.tokens: Counter[str] = Counter()

    async def open(self, metadata: Metadata) -> Session:
        try:
            self.tokens[token_of(metadata, ISTIO_HEADER).text] += 1
        except TokenRefusedError as error:
            raise CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, error.seen) from error
        return await super().open(metadata)


def serving(directory: Path, scene: Callable[[Path], Awaitable[None]]) -> ByToken:
    sessions = ByToken()

    async def main() -> None:
        (directory / "s").mkdir(mode=0o750)
        path = directory / "s" / "socket"
        server = SocketServer(path, sessions, sds_methods())
        await server.start()
        try:
            await scene(path)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 150))
    return sessions


async def fetch(path: Path, headers: Sequence[tuple[str, str | bytes]]) -> tuple[grpc.StatusCode, str]:
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(methods.FETCH_SECRETS)
        call = method(b"", metadata=tuple(headers), timeout=SECOND)
        return await call.code(), await call.details() or ""


def bearer(token: bytes) -> tuple[str, str]:
    return AUTHORIZATION, f"Bearer {token.decode()}"


@pytest.mark.parametrize("header", [(ISTIO_HEADER, LONGEST), bearer(LONGEST)], ids=[ISTIO_HEADER, AUTHORIZATION])
def test_the_longest_token_arrives_every_time(short_dir: Path, header: tuple[str, str | bytes]) -> None:
    async def scene(path: Path) -> None:
        for _ in range(TIMES):
            assert (await fetch(path, [header, ("x-request-id", "x" * 36)]))[0] is grpc.StatusCode.OK

    assert serving(short_dir, scene).tokens == {LONGEST.decode(): TIMES}


def test_a_call_with_two_of_them_hears_that_it_has_two(short_dir: Path) -> None:
    async def scene(path: Path) -> None:
        for _ in range(TIMES):
            answer = await fetch(path, [(ISTIO_HEADER, LONGEST), bearer(LONGEST)])
            assert answer == (grpc.StatusCode.UNAUTHENTICATED, "the call brings 2 tokens")

    serving(short_dir, scene)


def literal(name: bytes, value: bytes) -> bytes:
    """A header as it stands (RFC 7541, 6.2.2), its value longer than seven bits can say (5.1)."""
    rest, length = len(value) - 127, b"\x7f"
    while rest >= 128:
        rest, length = rest >> 7, length + bytes([rest & 127 | 128])
    return b"\x00" + bytes([len(name)]) + name + length + bytes([rest]) + value


def test_as_base64_too_which_is_how_other_clients_write_bytes(short_dir: Path) -> None:
    written = base64.b64encode(LONGEST).rstrip(b"=")
    block = headers_of(methods.FETCH_SECRETS) + literal(ISTIO_HEADER.encode(), written)
    call = frame(HEADERS, END_HEADERS, block, 1) + frame(DATA, END_STREAM, bytes(5), 1)

    async def scene(path: Path) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(TIMES):
            with socket.socket(socket.AF_UNIX) as client:
                client.setblocking(False)
                await loop.sock_connect(client, str(path))
                await loop.sock_sendall(client, PREFACE + frame(SETTINGS) + call)
                received = b""
                while b"chain 1" not in received:
                    more = await asyncio.wait_for(loop.sock_recv(client, 65_536), SECOND)
                    assert more, received
                    received += more

    assert len(block) > MAX_TOKEN_BYTES * 4 / 3
    assert serving(short_dir, scene).tokens == {LONGEST.decode(): TIMES}


@pytest.mark.parametrize("size", [MAX_TOKEN_BYTES + 1, 2 * MAX_TOKEN_BYTES, 3 * MAX_TOKEN_BYTES])
def test_a_longer_one_arrives_and_is_told_how_long_it_may_be(short_dir: Path, size: int) -> None:
    token = LONGEST + b"x" * (size - len(LONGEST))

    async def scene(path: Path) -> None:
        headers: list[tuple[str, str | bytes]] = [(ISTIO_HEADER, token), bearer(token)]
        for header in headers * TIMES:
            code, said = await fetch(path, [header])
            assert code is grpc.StatusCode.UNAUTHENTICATED
            assert "bytes" in said

    assert not serving(short_dir, scene).tokens


def test_and_what_is_no_header_any_more_is_refused_by_its_size_every_time(short_dir: Path) -> None:
    async def scene(path: Path) -> None:
        for _ in range(TIMES):
            code, said = await fetch(path, [(ISTIO_HEADER, LONGEST * 4)])
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert str(MAX_METADATA_BYTES) in said

    serving(short_dir, scene)
