"""Bytes that are no message, on every method of the agent's socket: a clear no, one line in the log, no traceback."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.agent.node.token import ISTIO_HEADER, token_of
from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import Kind, Method, SocketServer
from meshpki.agent.socket.sessions import CallRefusedError, OneIdentity
from meshpki.agent.workload.service import OFF, workload_methods
from meshpki.tokens.reasons import TokenRefusedError
from meshpki.wire import methods
from support.agent_process import CANARY, fake_token
from support.fake_ca import FakeAuthority
from support.real_snapshots import real_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from meshpki.agent.socket.sessions import Metadata, Session, Sessions

SECOND = 30.0
TABLE = (*sds_methods(), *workload_methods())
SERVED = tuple(row for row in TABLE if row.path not in OFF)
MALFORMED = {"endless varint": b"\xff" * 11, "cut short": b"\x0a\x05ab", "no such wire type": b"\x0f\x01"}
SPIFFE = ("workload.spiffe.io", "true")
SAID = "the bytes of a request are none of this method's messages; wanted: protobuf, well-formed"


class ByToken(OneIdentity):
    """Node mode's rule in small: no token, no session."""

    async def open(self, metadata: Metadata) -> Session:
        try:
            token_of(metadata, ISTIO_HEADER)
        except TokenRefusedError as error:
            raise CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, error.seen) from error
        return await super().open(metadata)


def serving(
    directory: Path, scene: Callable[[grpc.aio.Channel], Awaitable[None]], sessions: Callable[[Feed], Sessions]
) -> None:
    async def main() -> None:
        (directory / "s").mkdir(mode=0o750)
        path = directory / "s" / "socket"
        server = SocketServer(path, sessions(Feed(real_snapshot(FakeAuthority()))), TABLE)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                await scene(channel)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 90))


async def throw(
    channel: grpc.aio.Channel, path: str, data: bytes, metadata: Sequence[tuple[str, str | bytes]] = (SPIFFE,)
) -> tuple[grpc.StatusCode, str]:
    call = channel.stream_stream(path, bytes, bytes)(iter([data]), metadata=tuple(metadata), timeout=SECOND)
    return await call.code(), await call.details() or ""


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.path)
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_the_argument_is_called_invalid(
    short_dir: Path, row: Method, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(channel: grpc.aio.Channel) -> None:
        for _ in range(20):
            assert await throw(channel, row.path, data) == (grpc.StatusCode.INVALID_ARGUMENT, SAID)

    with caplog.at_level(logging.INFO):
        serving(short_dir, scene, OneIdentity)
    warnings = [record for record in caplog.records if record.levelno > logging.INFO]
    assert [record.message for record in warnings] == ["a call is refused"], "one line, however often"
    assert vars(warnings[0])["method"] == row.path
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("row", [row for row in SERVED if row.kind is Kind.STREAM], ids=lambda row: row.path)
def test_so_is_a_later_one_of_a_stream(short_dir: Path, row: Method) -> None:
    async def scene(channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream(row.path, bytes, bytes)(timeout=SECOND)
        await call.write(b"")
        assert await call.read(), "everything there is"
        await call.write(b"\x0f\x01")
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    serving(short_dir, scene, OneIdentity)


@pytest.mark.parametrize("path", OFF)
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_a_profile_that_is_off_looks_at_no_bytes(
    short_dir: Path, path: str, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(channel: grpc.aio.Channel) -> None:
        assert (await throw(channel, path, data))[0] is grpc.StatusCode.UNIMPLEMENTED
        assert (await throw(channel, path, data, ()))[0] is grpc.StatusCode.INVALID_ARGUMENT, "the header comes first"

    serving(short_dir, scene, OneIdentity)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("row", SERVED, ids=lambda row: row.path)
def test_a_stranger_hears_of_the_token_and_not_of_the_bytes(
    short_dir: Path, row: Method, caplog: pytest.LogCaptureFixture
) -> None:
    good = (ISTIO_HEADER, fake_token().encode())

    async def scene(channel: grpc.aio.Channel) -> None:
        answers = {await throw(channel, row.path, data) for data in (b"", *MALFORMED.values())}
        status = row.renamed.get(grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNAUTHENTICATED)
        assert answers == {(status, "the call brings no token")}
        assert await throw(channel, row.path, b"\xff" * 11, (SPIFFE, good)) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            SAID,
        )

    serving(short_dir, scene, ByToken)
    assert CANARY not in caplog.text


def test_all_of_it_is_tried() -> None:
    names = {methods.STREAM_SECRETS, methods.DELTA_SECRETS, methods.FETCH_SECRETS}
    assert {row.path for row in SERVED} == names | {methods.FETCH_X509_SVID, methods.FETCH_X509_BUNDLES}
