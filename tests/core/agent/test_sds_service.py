"""SDS over a real unix socket, with Envoy's own message definitions on the client's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2

from meshpki.agent.feed import Feed
from meshpki.agent.sds_service import sds_methods
from meshpki.agent.sessions import OneIdentity
from meshpki.agent.socket_server import SocketServer
from meshpki.errors import MachineError
from meshpki.wire import methods
from support.snapshots import SPIFFE_ID, snapshot

SECOND = 10.0


class Stream:
    """One StreamSecrets call as Envoy makes it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._call = channel.stream_stream(
            methods.STREAM_SECRETS,
            request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
            response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
        )()

    async def ask(self, *names: str, nonce: str = "", type_url: str = methods.SECRET_TYPE_URL) -> None:
        await self._call.write(
            discovery_pb2.DiscoveryRequest(resource_names=names, response_nonce=nonce, type_url=type_url)
        )

    async def next(self) -> tuple[str, dict[str, bytes]]:
        response = await asyncio.wait_for(self._call.read(), SECOND)
        assert isinstance(response, discovery_pb2.DiscoveryResponse), "the stream ended"
        secrets = [secret_pb2.Secret.FromString(item.value) for item in response.resources]
        return response.nonce, {
            secret.name: secret.tls_certificate.certificate_chain.inline_bytes
            or secret.validation_context.trusted_ca.inline_bytes
            for secret in secrets
        }

    async def finish(self) -> grpc.StatusCode:
        """Read to the end; gives the stream's status."""
        return await asyncio.wait_for(self._call.code(), SECOND)

    async def done_writing(self) -> None:
        await self._call.done_writing()


def sds_server(path: Path, feed: Feed) -> SocketServer:
    return SocketServer(path, OneIdentity(feed), sds_methods())


Scene = Callable[[Feed, Callable[[], Stream]], Awaitable[None]]


def serving(path: Path, scene: Scene) -> None:
    """Run `scene` beside a server on `path` that serves snapshot 1."""

    async def main() -> None:
        feed = Feed(snapshot(1))
        server = sds_server(path, feed)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                await scene(feed, lambda: Stream(channel))
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.fixture
def path(short_dir: Path) -> Path:
    directory = short_dir / "s"
    directory.mkdir(mode=0o750)
    directory.chmod(0o750)
    return directory / "sds.sock"


def test_a_rotation_reaches_every_stream_once(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        streams = [open_stream() for _ in range(5)]
        for stream in streams:
            await stream.ask("default", "ROOTCA", str(SPIFFE_ID))
            nonce, found = await stream.next()
            assert found == {"default": b"chain 1", "ROOTCA": b"roots", str(SPIFFE_ID): b"chain 1"}
            await stream.ask("default", "ROOTCA", str(SPIFFE_ID), nonce=nonce)
        feed.publish(snapshot(2))
        for stream in streams:
            assert (await stream.next())[1] == {"default": b"chain 2", str(SPIFFE_ID): b"chain 2"}
        feed.publish(snapshot(2, bundle=b"more roots"))
        for stream in streams:
            assert (await stream.next())[1] == {"ROOTCA": b"more roots"}

    serving(path, scene)


def test_a_slow_stream_gets_the_newest_and_not_what_it_missed(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        stream = open_stream()
        await stream.ask("default")
        await stream.next()
        for serial in range(2, 50):
            feed.publish(snapshot(serial))
        assert (await stream.next())[1] == {"default": b"chain 49"}

    serving(path, scene)


def test_another_type_ends_only_its_own_stream(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        good, bad = open_stream(), open_stream()
        await good.ask("default")
        await good.next()
        await bad.ask("default", type_url="type.googleapis.com/envoy.config.listener.v3.Listener")
        assert await bad.finish() is grpc.StatusCode.INVALID_ARGUMENT
        feed.publish(snapshot(2))
        assert (await good.next())[1] == {"default": b"chain 2"}

    serving(path, scene)


def test_an_unknown_name_leaves_the_stream_alive(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        stream = open_stream()
        await stream.ask("file-root:system")
        await stream.ask("file-root:system", "ROOTCA")
        assert (await stream.next())[1] == {"ROOTCA": b"roots"}

    serving(path, scene)


def test_a_client_that_stops_writing_ends_its_stream_cleanly(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        stream = open_stream()
        await stream.ask("default")
        await stream.next()
        await stream.done_writing()
        assert await stream.finish() is grpc.StatusCode.OK

    serving(path, scene)


def test_shutting_down_ends_streams_with_ok_and_removes_the_socket(path: Path) -> None:
    async def main() -> None:
        feed = Feed(snapshot(1))
        server = sds_server(path, feed)
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stream = Stream(channel)
            await stream.ask("default")
            await stream.next()
            stopping = asyncio.create_task(server.stop())
            assert await stream.finish() is grpc.StatusCode.OK
            await stopping
        assert not path.exists()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("garbage", [b"\xff" * 10, b"\x0a\x05ab", b"\x00", b"x" * 100_000])
def test_garbage_ends_only_its_own_stream(path: Path, garbage: bytes) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield garbage

    def as_it_is(data: bytes) -> bytes:
        return data

    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            call = channel.stream_stream(methods.STREAM_SECRETS, as_it_is, as_it_is)(requests())
            assert await asyncio.wait_for(call.code(), SECOND) is not None
        stream = open_stream()
        await stream.ask("default")
        assert (await stream.next())[1] == {"default": b"chain 1"}

    serving(path, scene)


@pytest.mark.parametrize("method", [methods.DELTA_SECRETS, methods.FETCH_SECRETS, methods.CREATE_CERTIFICATE, "/x/y"])
def test_every_other_method_is_unimplemented(path: Path, method: str) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method, bytes, bytes)(b"", timeout=SECOND)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    serving(path, scene)


def test_a_second_server_on_the_same_path_is_refused_and_the_first_one_goes_on(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        with pytest.raises(MachineError, match="already listens"):
            await sds_server(path, feed).start()
        stream = open_stream()
        await stream.ask("default")
        assert (await stream.next())[1] == {"default": b"chain 1"}

    serving(path, scene)


def test_when_the_socket_is_there_it_answers_at_once(path: Path) -> None:
    """No moment in which a client can connect and find nobody: the socket is renamed into place when it is served."""

    async def main() -> None:
        feed = Feed(snapshot(1))
        server = sds_server(path, feed)
        starting = asyncio.create_task(server.start())
        while not path.exists():
            await asyncio.sleep(0)
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stream = Stream(channel)
            await stream.ask("default")
            await stream.next()
        await starting
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))
