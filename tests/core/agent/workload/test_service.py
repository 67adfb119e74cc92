"""The Workload API over a real unix socket, with the public client's own message definitions, beside SDS."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography import x509
from envoy.service.discovery.v3 import discovery_pb2
from spiffe._proto import workload_pb2 as original

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import Kind, SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.agent.workload import service as workload_service
from meshpki.agent.workload.api import documents_of
from meshpki.agent.workload.service import OFF, STREAMS, workload_methods
from meshpki.wire import methods
from support.fake_ca import SPIFFE_ID, FakeAuthority
from support.real_snapshots import real_snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.agent.socket.sessions import Metadata, Session, Sessions
    from meshpki.agent.workload.api import Documents

SECOND = 10.0
QUIET = 0.3
"""How long a stream is watched for a message that must not come."""
HEADER = (("workload.spiffe.io", "true"),)
AUTHORITY = FakeAuthority()
FIRST, SECOND_ONE, THIRD = (real_snapshot(AUTHORITY) for _ in range(3))
BOTH_ROOTS = FakeAuthority().roots_pem + AUTHORITY.roots_pem
RESPONSES: dict[str, Any] = {  # Any: generated classes
    methods.FETCH_X509_SVID: original.X509SVIDResponse,
    methods.FETCH_X509_BUNDLES: original.X509BundlesResponse,
}


class Stream:
    """One server stream as a SPIFFE client opens it."""

    def __init__(self, channel: grpc.aio.Channel, path: str, metadata: Sequence[tuple[str, str]] = HEADER) -> None:
        call = channel.unary_stream(path, bytes, RESPONSES[path].FromString)
        self._call = call(b"", metadata=tuple(metadata))

    async def next(self) -> Any:  # Any: generated classes
        response = await asyncio.wait_for(self._call.read(), SECOND)
        assert response is not grpc.aio.EOF, f"the stream ended: {await self._call.code()}"
        return response

    async def serial(self) -> int:
        """The serial of the next message's certificate."""
        return serial_of(await self.next())

    async def is_quiet(self) -> bool:
        """Whether nothing comes; the stream cannot be read afterwards."""
        done, _ = await asyncio.wait([asyncio.ensure_future(self._call.read())], timeout=QUIET)
        return not done

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """Wait for the end."""
        code = await asyncio.wait_for(self._call.code(), SECOND)
        return code, await self._call.details()


def serial_of(response: Any) -> int:  # Any: generated classes
    (svid,) = response.svids
    return x509.load_der_x509_certificate(
        svid.x509_svid[: 4 + int.from_bytes(svid.x509_svid[2:4], "big")]
    ).serial_number


@dataclass(frozen=True)
class Stage:
    feed: Feed
    channel: grpc.aio.Channel
    server: SocketServer

    def svids(self, metadata: Sequence[tuple[str, str]] = HEADER) -> Stream:
        return Stream(self.channel, methods.FETCH_X509_SVID, metadata)

    def bundles(self) -> Stream:
        return Stream(self.channel, methods.FETCH_X509_BUNDLES)


def serving(
    path: Path,
    scene: Callable[[Stage], Awaitable[None]],
    *,
    snapshot: Snapshot | None = FIRST,
    sessions: Callable[[Feed], Sessions] = OneIdentity,
    clock: Callable[[], float] = time.time,
) -> None:
    """Run `scene` beside a server on `path`."""

    async def main() -> None:
        feed = Feed(snapshot)
        server = SocketServer(path, sessions(feed), (*sds_methods(), *workload_methods(clock=clock)))
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                await scene(Stage(feed, channel, server))
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.fixture
def path(short_dir: Path) -> Path:
    directory = short_dir / "s"
    directory.mkdir(mode=0o750)
    directory.chmod(0o750)
    return directory / "sds.sock"


def test_the_first_message_comes_at_once_and_every_rotation_reaches_every_stream(path: Path) -> None:
    async def scene(stage: Stage) -> None:
        streams = [stage.svids() for _ in range(5)]
        assert [await stream.serial() for stream in streams] == [FIRST.serial] * 5
        for snapshot in (SECOND_ONE, THIRD):
            stage.feed.publish(snapshot)
            assert [await stream.serial() for stream in streams] == [snapshot.serial] * 5

    serving(path, scene)


def test_new_roots_come_as_a_full_set_on_both_streams(path: Path) -> None:
    async def scene(stage: Stage) -> None:
        svids, bundles = stage.svids(), stage.bundles()
        before, roots = (await svids.next()).svids[0], (await bundles.next()).bundles["spiffe://mesh.test"]
        assert before.bundle == roots
        stage.feed.publish(replace(FIRST, bundle_pem=BOTH_ROOTS))
        after, both = (await svids.next()).svids[0], (await bundles.next()).bundles["spiffe://mesh.test"]
        assert (after.spiffe_id, after.x509_svid, after.x509_svid_key) == (
            before.spiffe_id,
            before.x509_svid,
            before.x509_svid_key,
        )
        assert after.bundle == both
        assert both.endswith(roots)
        assert len(both) > len(roots)

    serving(path, scene)


def test_what_has_not_changed_is_not_sent_again(path: Path) -> None:
    """Some clients reload on every message (Workload API, section 4.3)."""

    async def scene(stage: Stage) -> None:
        svids, bundles = stage.svids(), stage.bundles()
        await svids.next()
        await bundles.next()
        stage.feed.publish(replace(FIRST))
        stage.feed.publish(SECOND_ONE)
        assert await svids.serial() == SECOND_ONE.serial
        assert await svids.is_quiet()
        assert await bundles.is_quiet()

    serving(path, scene)


def test_a_slow_stream_gets_the_newest_and_not_what_it_missed(path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stream = stage.svids()
        await stream.next()
        for snapshot in (SECOND_ONE, FIRST, SECOND_ONE, THIRD):
            stage.feed.publish(snapshot)
        assert await stream.serial() == THIRD.serial
        assert await stream.is_quiet()

    serving(path, scene)


@pytest.mark.parametrize("wrong", [(), (("workload.spiffe.io", "false"),), (*HEADER, *HEADER)])
@pytest.mark.parametrize("method", [*STREAMS, *OFF])
def test_no_method_answers_without_the_header(path: Path, method: str, wrong: Sequence[tuple[str, str]]) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stage.channel.unary_unary(method, bytes, bytes)(b"", metadata=tuple(wrong), timeout=SECOND)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "workload.spiffe.io: true" in (caught.value.details() or "")

    serving(path, scene)


@pytest.mark.parametrize("method", OFF)
def test_the_other_profiles_are_off(path: Path, method: str) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stage.channel.unary_unary(method, bytes, bytes)(b"", metadata=HEADER, timeout=SECOND)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "X.509 profile only" in (caught.value.details() or "")

    serving(path, scene)


def test_the_whole_service_is_in_the_table_and_nothing_else(path: Path) -> None:
    service = {value for value in vars(methods).values() if isinstance(value, str) and value.startswith("/SpiffeW")}
    assert {row.path for row in workload_methods()} == service
    assert {row.path for row in workload_methods() if row.kind is Kind.UNARY} == {
        methods.FETCH_JWT_SVID,
        methods.VALIDATE_JWT_SVID,
    }

    async def scene(stage: Stage) -> None:
        for method in ("/SpiffeWorkloadAPI/FetchX509Svid", "/SpiffeWorkloadAPI2/FetchX509SVID"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await stage.channel.unary_unary(method, bytes, bytes)(b"", metadata=HEADER, timeout=SECOND)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    serving(path, scene)


def test_envoy_on_the_same_socket_sends_no_such_header(path: Path) -> None:
    async def scene(stage: Stage) -> None:
        call = stage.channel.stream_stream(
            methods.STREAM_SECRETS,
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()
        await call.write(discovery_pb2.DiscoveryRequest(resource_names=["default"]))
        response = await asyncio.wait_for(call.read(), SECOND)
        assert isinstance(response, discovery_pb2.DiscoveryResponse)
        assert len(response.resources) == 1

    serving(path, scene)


def at_the_end() -> float:
    return float(FIRST.not_after)


@pytest.mark.parametrize(
    ("snapshot", "denied", "clock", "svids", "bundles"),
    [
        (None, False, time.time, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE),
        (None, True, time.time, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED),
        (FIRST, True, time.time, None, None),
        (FIRST, False, at_the_end, grpc.StatusCode.UNAVAILABLE, None),
        (FIRST, True, at_the_end, grpc.StatusCode.PERMISSION_DENIED, None),
    ],
    ids=["nothing yet", "denied", "denied but still valid", "expired", "expired and denied"],
)
def test_who_gets_nothing_is_told_why(
    path: Path,
    snapshot: Snapshot | None,
    denied: bool,
    clock: Callable[[], float],
    svids: grpc.StatusCode | None,
    bundles: grpc.StatusCode | None,
) -> None:
    async def scene(stage: Stage) -> None:
        stage.feed.denied = denied
        for stream, wanted in ((stage.svids(), svids), (stage.bundles(), bundles)):
            if wanted is None:
                await stream.next()
            else:
                code, said = await stream.status()
                assert code is wanted
                assert "spiffe://" not in said

    serving(path, scene, snapshot=snapshot, clock=clock)


def test_what_a_later_standard_puts_into_a_request_does_no_harm(path: Path) -> None:
    async def scene(stage: Stage) -> None:
        for body in (b"\x0a\x05hello", b"\x78\x78" * 30_000):
            call = stage.channel.unary_stream(methods.FETCH_X509_SVID, bytes, original.X509SVIDResponse.FromString)
            response = await asyncio.wait_for(call(body, metadata=HEADER).read(), SECOND)
            assert serial_of(response) == FIRST.serial

    serving(path, scene)


def test_shutting_down_ends_streams_with_ok(path: Path) -> None:
    async def scene(stage: Stage) -> None:
        stream = stage.svids()
        await stream.next()
        stopping = asyncio.create_task(stage.server.stop())
        assert (await stream.status())[0] is grpc.StatusCode.OK
        await stopping

    serving(path, scene)


class ByName:
    """Sessions as node mode has them: every caller says who it is, and gets that feed and no other."""

    def __init__(self) -> None:
        self.feeds = {"a": Feed(FIRST), "b": Feed(real_snapshot(AUTHORITY, uri=SPIFFE_ID + "-b"))}
        self.reconnect: list[asyncio.Future[None]] = []
        self.open_sessions = 0

    async def open(self, metadata: Metadata) -> Session:
        outer, feed = self, self.feeds[str(dict(metadata)["who"])]
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.reconnect.append(future)
        self.open_sessions += 1

        class Named:
            must_reconnect = future

            def __init__(self) -> None:
                self.feed = feed

            def close(self) -> None:
                outer.open_sessions -= 1

        return Named()

    def close(self) -> None:
        for feed in self.feeds.values():
            feed.close()


def test_each_stream_sees_its_own_identity_only(path: Path) -> None:
    named = ByName()

    async def scene(stage: Stage) -> None:
        streams = {who: stage.svids((*HEADER, ("who", who))) for who in "ab"}
        for _ in range(5):
            names = {who: [svid.spiffe_id for svid in (await stream.next()).svids] for who, stream in streams.items()}
            assert names == {"a": [SPIFFE_ID], "b": [SPIFFE_ID + "-b"]}
            named.feeds["a"].publish(real_snapshot(AUTHORITY))
            named.feeds["b"].publish(real_snapshot(AUTHORITY, uri=SPIFFE_ID + "-b"))

    serving(path, scene, sessions=lambda _: named)


def test_who_must_reconnect_is_sent_away_with_ok_and_its_session_closed(path: Path) -> None:
    named = ByName()

    async def scene(stage: Stage) -> None:
        stream = stage.svids((*HEADER, ("who", "a")))
        await stream.next()
        assert named.open_sessions == 1
        named.reconnect[0].set_result(None)
        assert (await stream.status())[0] is grpc.StatusCode.OK
        assert named.open_sessions == 0

    serving(path, scene, sessions=lambda _: named)


def test_no_session_is_opened_for_a_call_that_is_refused_beforehand(path: Path) -> None:
    named = ByName()

    async def scene(stage: Stage) -> None:
        for method, metadata in [(methods.FETCH_X509_SVID, ()), *((method, HEADER) for method in OFF)]:
            with pytest.raises(grpc.aio.AioRpcError):
                await stage.channel.unary_unary(method, bytes, bytes)(b"", metadata=metadata, timeout=SECOND)
        assert named.reconnect == []

    serving(path, scene, sessions=lambda _: named)


def test_a_snapshot_is_converted_once_for_all_streams(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []

    def counting(held: Snapshot) -> Documents:
        converted.append(held.serial)
        return documents_of(held)

    monkeypatch.setattr(workload_service, "documents_of", counting)

    async def scene(stage: Stage) -> None:
        streams = [*(stage.svids() for _ in range(4)), *(stage.bundles() for _ in range(4))]
        for stream in streams:
            await stream.next()
        stage.feed.publish(SECOND_ONE)
        for stream in streams[:4]:
            await stream.next()
        assert converted == [FIRST.serial, SECOND_ONE.serial]

    serving(path, scene)
