"""SDS over a real unix socket, with Envoy's own message definitions on the client's side."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import grpc
import pytest
from envoy.config.core.v3 import base_pb2
from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.files import FileReader, SecretFiles
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.server import MAX_REQUEST_BYTES, SocketServer
from meshpki.agent.socket.sessions import Metadata, OneIdentity, Session
from meshpki.errors import MachineError
from meshpki.runtime.files import write_atomically
from meshpki.runtime.watch import Watcher
from meshpki.wire import methods
from support.fake_ca import make_ca
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


GARBAGE = [b"\xff" * 10, b"\x0a\x05ab", b"\x00", bytes(MAX_REQUEST_BYTES + 1)]


@pytest.mark.parametrize("method", [methods.STREAM_SECRETS, methods.DELTA_SECRETS, methods.FETCH_SECRETS])
@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_ends_only_its_own_call(path: Path, garbage: bytes, method: str) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        good = open_stream()
        await good.ask("default")
        await good.next()
        assert await throw(path, method, [garbage]) is not grpc.StatusCode.OK
        feed.publish(snapshot(2))
        assert (await good.next())[1] == {"default": b"chain 2"}

    serving(path, scene)


async def throw(path: Path, method: str, messages: list[bytes]) -> grpc.StatusCode:
    """Send bytes as they are, whatever the method; gives the status."""

    async def requests() -> AsyncIterator[bytes]:
        for message in messages:
            yield message

    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        if method == methods.FETCH_SECRETS:
            unary = channel.unary_unary(method, as_it_is, as_it_is)(messages[0])
            return await asyncio.wait_for(unary.code(), SECOND)
        call = channel.stream_stream(method, as_it_is, as_it_is)(requests())
        with contextlib.suppress(grpc.aio.AioRpcError):
            async with asyncio.timeout(SECOND):
                async for _ in call:
                    pass
        return await asyncio.wait_for(call.code(), SECOND)


def as_it_is(data: bytes) -> bytes:
    return data


MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.lists(st.text(max_size=20) | st.sampled_from(["default", "ROOTCA", "*"]), max_size=5).map(
        lambda names: discovery_pb2.DiscoveryRequest(
            resource_names=names, response_nonce="1", error_detail={"code": 3}
        ).SerializeToString()
    ),
    st.lists(st.text(max_size=20) | st.sampled_from(["default", "ROOTCA", "*"]), max_size=5).map(
        lambda names: discovery_pb2.DeltaDiscoveryRequest(
            resource_names_subscribe=names,
            resource_names_unsubscribe=names[1:],
            initial_resource_versions=dict.fromkeys(names, "1"),
        ).SerializeToString()
    ),
)


def test_no_bytes_end_the_server_or_anybody_elses_stream(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Malformed, half right, and the other method's messages, some with bits turned over."""

    @settings(max_examples=60, deadline=None, database=None)
    @given(
        method=st.sampled_from([methods.STREAM_SECRETS, methods.DELTA_SECRETS, methods.FETCH_SECRETS]),
        messages=st.lists(MESSAGES, min_size=1, max_size=4),
        flip=st.none() | st.integers(0, 400),
    )
    def collect(method: str, messages: list[bytes], flip: int | None) -> None:
        if flip is not None and flip // 8 < len(messages[-1]):
            last = bytearray(messages[-1])
            last[flip // 8] ^= 1 << flip % 8
            messages = [*messages[:-1], bytes(last)]
        examples.append((method, messages))

    examples: list[tuple[str, list[bytes]]] = []
    collect()
    # INTERNAL is what grpc's own client makes of a call that ends while it still writes.
    allowed = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL}

    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        good = open_stream()
        await good.ask("default")
        await good.next()
        for method, messages in examples:
            assert await throw(path, method, messages) in allowed
        feed.publish(snapshot(2))
        assert (await good.next())[1] == {"default": b"chain 2"}

    serving(path, scene)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize("method", [methods.CREATE_CERTIFICATE, "/x/y", methods.STREAM_SECRETS + "2"])
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


def delta_call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall:  # type: ignore[type-arg]  # messages of Envoy's
    return channel.stream_stream(
        methods.DELTA_SECRETS,
        request_serializer=discovery_pb2.DeltaDiscoveryRequest.SerializeToString,
        response_deserializer=discovery_pb2.DeltaDiscoveryResponse.FromString,
    )()


async def next_of(call: grpc.aio.StreamStreamCall) -> discovery_pb2.DeltaDiscoveryResponse:  # type: ignore[type-arg]
    response = await asyncio.wait_for(call.read(), SECOND)
    assert isinstance(response, discovery_pb2.DeltaDiscoveryResponse), "the stream ended"
    return response


def told(response: discovery_pb2.DeltaDiscoveryResponse) -> tuple[dict[str, bytes], list[str]]:
    secrets = [secret_pb2.Secret.FromString(item.resource.value) for item in response.resources]
    return {
        secret.name: secret.tls_certificate.certificate_chain.inline_bytes
        or secret.validation_context.trusted_ca.inline_bytes
        for secret in secrets
    }, list(response.removed_resources)


def test_a_delta_stream_from_the_first_request_to_a_rotation_and_back_again(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            call = delta_call(channel)
            names = ["default", "ROOTCA", "nobody"]
            await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=names))
            first = await next_of(call)
            assert told(first) == ({"default": b"chain 1", "ROOTCA": b"roots"}, ["nobody"])
            await call.write(discovery_pb2.DeltaDiscoveryRequest(response_nonce=first.nonce))
            feed.publish(snapshot(2))
            second = await next_of(call)
            assert told(second) == ({"default": b"chain 2"}, [])
            call.cancel()

            again = delta_call(channel)
            held = {item.name: item.version for item in (*first.resources, *second.resources)}
            await again.write(
                discovery_pb2.DeltaDiscoveryRequest(
                    resource_names_subscribe=["default", "ROOTCA"], initial_resource_versions=held
                )
            )
            await again.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=["ALL"]))
            assert told(await next_of(again)) == ({"ALL": b"roots"}, []), "what it has is not sent again"

    serving(path, scene)


def test_a_fetch(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            fetch = channel.unary_unary(
                methods.FETCH_SECRETS,
                request_serializer=discovery_pb2.DiscoveryRequest.SerializeToString,
                response_deserializer=discovery_pb2.DiscoveryResponse.FromString,
            )
            answer = await fetch(discovery_pb2.DiscoveryRequest(resource_names=["ROOTCA", "nobody"]), timeout=SECOND)
            assert [secret_pb2.Secret.FromString(item.value).name for item in answer.resources] == ["ROOTCA"]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await fetch(discovery_pb2.DiscoveryRequest(type_url="type.googleapis.com/x.Y"), timeout=SECOND)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    serving(path, scene)


def envoy_node(**metadata: object) -> base_pb2.Node:
    node = base_pb2.Node(id="n", user_agent_name="envoy")
    node.user_agent_build_version.version.major_number = 1
    node.user_agent_build_version.version.minor_number = 40
    node.metadata.update(metadata)
    return node


@pytest.mark.parametrize(
    ("node", "validators"),
    [
        (None, set()),
        (envoy_node(), {"ALL", "spiffe://mesh.test"}),
        (envoy_node(disable_spiffe_cert_validation=True), set()),
        (envoy_node(spiffe_cert_validation="true"), {"ROOTCA", "ALL", "spiffe://mesh.test"}),
    ],
)
@pytest.mark.parametrize("delta", [False, True])
def test_the_first_request_decides_the_form_of_bundles_for_the_whole_stream(
    path: Path, node: base_pb2.Node | None, validators: set[str], delta: bool
) -> None:
    """Later requests carry no node (`set_node_on_first_message_only`), and one that does changes nothing."""
    names = ["ROOTCA", "ALL", "spiffe://mesh.test"]
    other = base_pb2.Node() if validators else envoy_node(spiffe_cert_validation=True)

    def request(node: base_pb2.Node | None, nonce: str) -> bytes:
        request = (
            discovery_pb2.DeltaDiscoveryRequest(
                node=node, resource_names_subscribe=[] if nonce else names, response_nonce=nonce
            )
            if delta
            else discovery_pb2.DiscoveryRequest(node=node, resource_names=names, response_nonce=nonce)
        )
        return bytes(request.SerializeToString())

    kind = discovery_pb2.DeltaDiscoveryResponse if delta else discovery_pb2.DiscoveryResponse

    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            call = channel.stream_stream(
                methods.DELTA_SECRETS if delta else methods.STREAM_SECRETS,
                as_it_is,
                as_it_is,
            )()
            nonce = ""
            for number in range(3):
                await call.write(request(other if nonce else node, nonce))
                if number:
                    feed.publish(snapshot(1, bundle=b"roots %d" % number))
                data = await asyncio.wait_for(call.read(), SECOND)
                assert isinstance(data, bytes), "the stream ended"
                response = kind.FromString(data)
                nonce = response.nonce
                bodies = [item.resource.value if delta else item.value for item in response.resources]
                found = [secret_pb2.Secret.FromString(body) for body in bodies]
                assert {secret.name for secret in found} == set(names)
                assert {
                    secret.name for secret in found if secret.validation_context.HasField("custom_validator_config")
                } == validators

    serving(path, scene)


def test_before_the_first_certificate_a_stream_waits_and_a_fetch_is_told_to_come_back(path: Path) -> None:
    """A delta stream above all: it would hear that there is no such secret, and Envoy would go on without."""

    async def main() -> None:
        feed = Feed()
        server = sds_server(path, feed)
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stream, call = Stream(channel), delta_call(channel)
            await stream.ask("default")
            await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=["default"]))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(methods.FETCH_SECRETS, as_it_is, as_it_is)(b"", timeout=SECOND)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            feed.publish(snapshot(7))
            assert (await stream.next())[1] == {"default": b"chain 7"}
            assert told(await next_of(call)) == ({"default": b"chain 7"}, [])
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


class LeavingSoon(OneIdentity):
    """Sessions that have to end: what node mode does before a token is over."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(feed)
        self.leave: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, metadata: Metadata) -> Session:
        session = await super().open(metadata)
        sessions = self

        class Leaving:
            feed = session.feed
            must_reconnect = sessions.leave
            close = session.close

        return Leaving()


@pytest.mark.parametrize("snapshots", [0, 1])
@pytest.mark.parametrize("asks", [False, True])
def test_a_stream_that_must_come_back_ends_with_ok(path: Path, snapshots: int, asks: bool) -> None:
    async def main() -> None:
        feed = Feed(snapshot(1) if snapshots else None)
        sessions = LeavingSoon(feed)
        server = SocketServer(path, sessions, sds_methods())
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stream, call = Stream(channel), delta_call(channel)
            if asks:
                await stream.ask("default")
                await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=["default"]))
            if asks and snapshots:
                await stream.next()
                await next_of(call)
            sessions.leave.set_result(None)
            assert await stream.finish() is grpc.StatusCode.OK
            assert await asyncio.wait_for(call.code(), SECOND) is grpc.StatusCode.OK
        await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


def test_files_are_served_beside_the_rest_and_followed(path: Path, short_dir: Path) -> None:
    files = short_dir / "files"
    files.mkdir()
    first, second = make_ca("one").pem.encode(), make_ca("two").pem.encode()
    (files / "ca.pem").write_bytes(first)
    name, late = f"file-root:{files}/ca.pem", f"file-root:{files}/late.pem"

    async def main() -> None:
        watcher = Watcher()
        secret_files = SecretFiles(FileReader([files]), watcher)
        server = SocketServer(path, OneIdentity(Feed(snapshot(1))), sds_methods(secret_files))
        await server.start()
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stream, call = Stream(channel), delta_call(channel)
            await stream.ask("default", name, late)
            assert (await stream.next())[1] == {"default": b"chain 1", name: first}
            await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=[name, late]))
            assert told(await next_of(call)) == ({name: first}, [late])
            write_atomically(files / "ca.pem", second)
            assert (await stream.next())[1] == {name: second}
            assert told(await next_of(call)) == ({name: second}, [])
            write_atomically(files / "late.pem", first)
            nonce, found = await stream.next()
            assert found == {late: first}
            assert told(await next_of(call)) == ({late: first}, [])
            (files / "late.pem").unlink()
            assert told(await next_of(call)) == ({}, [late])
            fetched = await channel.unary_unary(
                methods.FETCH_SECRETS, None, discovery_pb2.DiscoveryResponse.FromString
            )(discovery_pb2.DiscoveryRequest(resource_names=[name, late]).SerializeToString(), timeout=SECOND)
            assert [secret_pb2.Secret.FromString(item.value).name for item in fetched.resources] == [name]
            assert secret_files.resource(name) is not None
            await stream.ask("default", nonce=nonce)
            await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_unsubscribe=[name]))
            async with asyncio.timeout(SECOND):
                while secret_files.resource(name) is not None:  # nobody asks for it any more
                    await asyncio.sleep(0.01)
        await server.stop()
        watcher.close()

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.parametrize("delta", [False, True])
def test_a_fault_while_something_new_is_sent_ends_the_stream_and_is_told(
    path: Path, delta: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """What is new goes out in a task of its own: one that fails must not leave its stream waiting for ever."""

    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stream, call = open_stream(), delta_call(channel)
            if delta:
                await call.write(discovery_pb2.DeltaDiscoveryRequest(resource_names_subscribe=["default"]))
                await next_of(call)
            else:
                await stream.ask("default")
                await stream.next()
            feed.publish("no snapshot")  # type: ignore[arg-type]  # the fault
            ended = asyncio.wait_for(call.code(), SECOND) if delta else stream.finish()
            assert await ended is grpc.StatusCode.INTERNAL
        assert "a fault of the agent ended a call" in caplog.text

    serving(path, scene)


def test_a_stream_that_only_waits_has_one_task_and_leaves_nothing_behind(path: Path) -> None:
    async def scene(feed: Feed, open_stream: Callable[[], Stream]) -> None:
        async def hold(streams: int) -> None:
            opened = [open_stream() for _ in range(streams)]
            for stream in opened:
                await stream.ask("default", "ROOTCA")
                nonce, _ = await stream.next()
                await stream.ask("default", "ROOTCA", nonce=nonce)
            feed.publish(snapshot(feed.current.serial + 1 if feed.current else 1))
            for stream in opened:
                await stream.next()
            assert tasks_of_the_agent() == ["SocketServer._answer"] * streams
            followers = feed.changes()._callbacks or ()  # asyncio's own, as repr shows them
            assert len(followers) == streams
            for stream in opened:
                await stream.done_writing()
                assert await stream.finish() is grpc.StatusCode.OK
            async with asyncio.timeout(SECOND):
                while feed.changes()._callbacks:
                    await asyncio.sleep(0.01)

        await hold(3)
        await hold(5)

    serving(path, scene)


def tasks_of_the_agent() -> list[str]:
    """Tasks that begin in the agent's own code."""
    begun = [getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()]
    return [code.co_qualname for code in begun if code is not None and "/meshpki/" in code.co_filename]
