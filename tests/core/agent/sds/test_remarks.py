"""What clients can write into the agent's log: so much for each identity, and the number of what is left out."""

from __future__ import annotations

import asyncio
import gc
import logging
from typing import TYPE_CHECKING

import grpc
import pytest
from envoy.service.discovery.v3 import discovery_pb2

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds import remarks as sds_remarks
from meshpki.agent.sds.remarks import MOST_KINDS, REJECTED, UNKNOWN, RemarksByIdentity
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.wire import methods
from support.snapshots import snapshot

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 30.0
MANY = 200


def lines(caplog: pytest.LogCaptureFixture, message: str) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == sds_remarks.log.name and record.msg == message]


def sotw(number: int, nonce: str) -> bytes:
    request = discovery_pb2.DiscoveryRequest(resource_names=["default", f"made-up-{number}"], response_nonce=nonce)
    request.error_detail.message = f"no good {number}"
    return bytes(request.SerializeToString())


def delta(number: int, nonce: str) -> bytes:
    request = discovery_pb2.DeltaDiscoveryRequest(
        resource_names_subscribe=["default", f"made-up-{number}"],
        resource_names_unsubscribe=[f"made-up-{number - 1}"],
        response_nonce=nonce,
    )
    request.error_detail.message = f"no good {number}"
    return bytes(request.SerializeToString())


@pytest.mark.parametrize("method", ["StreamSecrets", "DeltaSecrets", "FetchSecrets"])
def test_a_client_that_makes_up_names_and_complaints_fills_no_log(
    short_dir: Path, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    """On one stream, and by coming back again and again."""
    path = short_dir / "s" / "socket"
    path.parent.mkdir(mode=0o750)
    request = delta if method == "DeltaSecrets" else sotw
    call_path = methods.STREAM_SECRETS.replace("StreamSecrets", method)

    async def stream(channel: grpc.aio.Channel, first: int) -> None:
        messages = [request(first + number, "1" if number else "") for number in range(MANY)]
        call = channel.stream_stream(call_path, bytes, bytes)(iter(messages), timeout=SECOND)
        async for _ in call:
            pass
        assert await call.code() is grpc.StatusCode.OK

    async def main() -> None:
        server = SocketServer(path, OneIdentity(Feed(snapshot(1))), sds_methods())
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            for first in range(0, 5 * MANY, MANY):
                if method == "FetchSecrets":
                    fetch: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(call_path)
                    for number in range(50):
                        await fetch(sotw(first + number, ""), timeout=SECOND)
                else:
                    await stream(channel, first)
        await server.stop()

    with caplog.at_level(logging.INFO):
        asyncio.run(asyncio.wait_for(main(), 150))
    # A machine so slow that a minute passes sees each kind once more; it sees no thousand.
    assert MOST_KINDS < len(lines(caplog, UNKNOWN)) <= 3 * (MOST_KINDS + 1)
    if method != "FetchSecrets":
        assert MOST_KINDS < len(lines(caplog, REJECTED)) <= 3 * (MOST_KINDS + 1)
        assert {record.levelno for record in lines(caplog, REJECTED)} == {logging.ERROR}


def test_what_is_left_out_is_counted_and_each_identity_for_itself(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        remarks = RemarksByIdentity(seconds=0.05)
        one, two = Feed(), Feed()
        assert remarks.of(one) is remarks.of(one)
        for number in range(100):
            remarks.of(one).unknown("x", {"secret": "x", "number": number})
        remarks.of(two).unknown("x", {"secret": "x"})
        assert len(lines(caplog, UNKNOWN)) == 2
        async with asyncio.timeout(SECOND):
            while not any(vars(record).get("times") == 99 for record in caplog.records):
                await asyncio.sleep(0.005)

    with caplog.at_level(logging.INFO):
        asyncio.run(main())


def test_no_identity_is_kept_for_its_remarks() -> None:
    remarks = RemarksByIdentity()
    feed = Feed()
    remarks.of(feed)
    assert len(remarks._kept) == 1
    del feed
    gc.collect()
    assert not remarks._kept
