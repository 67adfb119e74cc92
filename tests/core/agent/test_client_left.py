"""A client that leaves in the middle of its answer, by frames of its own making: nobody's fault, and no traceback."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.wire import methods
from support.snapshots import snapshot

if TYPE_CHECKING:
    from meshpki.agent.socket.sessions import Metadata, Session

LARGE = 1_000_000
"""Bytes of an answer that no HTTP/2 window takes at once: the server is still at it when the client goes."""
HEADERS, RST_STREAM, SETTINGS, DATA = 1, 3, 4, 0
END_STREAM, END_HEADERS = 1, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def opening(path: str) -> bytes:
    """A call's first bytes on a new connection, with one empty request. Headers are literals (RFC 7541, 6.2.2)."""
    headers = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "x"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    block = b"".join(
        b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in headers.items()
    )
    ends = END_STREAM if path == methods.FETCH_SECRETS else 0
    return (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(SETTINGS, 0, 0, b"")
        + frame(HEADERS, END_HEADERS, 1, block)
        + frame(DATA, ends, 1, bytes(5))
    )


class Counted(OneIdentity):
    """Knows how many sessions are open."""

    open_ones = 0

    async def open(self, metadata: Metadata) -> Session:
        one, this = await super().open(metadata), self
        self.open_ones += 1

        class Noticed:
            feed, must_reconnect = one.feed, one.must_reconnect

            def close(self) -> None:
                this.open_ones -= 1
                one.close()

        return Noticed()


@pytest.mark.parametrize("resets", [False, True], ids=["hangs up", "resets"])
@pytest.mark.parametrize("method", [methods.FETCH_SECRETS, methods.STREAM_SECRETS])
def test_a_client_that_leaves_is_no_fault(
    short_dir: Path, method: str, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    directory = short_dir / "s"
    directory.mkdir(mode=0o750)

    async def main() -> None:
        path = directory / "sds.sock"
        sessions = Counted(Feed(snapshot(1, bundle=b"x" * LARGE)))
        server = SocketServer(path, sessions, sds_methods())
        await server.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, str(path))
            await loop.sock_sendall(client, opening(method))
            received = 0
            while received < 60_000:  # the window is full, and the rest waits
                received += len(await asyncio.wait_for(loop.sock_recv(client, 65_536), 10))
            assert sessions.open_ones == 1
            if resets:
                await loop.sock_sendall(client, frame(RST_STREAM, 0, 1, struct.pack(">I", 8)))
        async with asyncio.timeout(10):
            while sessions.open_ones:
                await asyncio.sleep(0.01)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:  # and the next one is served
            fetch: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(methods.FETCH_SECRETS)
            assert len(await fetch(b"", timeout=10)) > LARGE
        await server.stop()

    asyncio.run(main())
    assert [record.message for record in caplog.records if record.levelno > logging.INFO or record.exc_info] == []
