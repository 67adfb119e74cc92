"""The one server on the socket: its table, its sessions, and what a client sees when something is refused or breaks."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import pytest

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.reflection_service import with_reflection
from meshpki.agent.socket.server import MAX_REQUEST_BYTES, Call, Kind, Method, SocketServer
from meshpki.agent.socket.sessions import CallRefusedError, Metadata, OneIdentity, Session
from meshpki.agent.workload.service import workload_methods
from meshpki.errors import RefusedError
from meshpki.wire import methods as paths
from support.snapshots import snapshot

SECOND = 10.0


class Recorder:
    """Sessions that remember what was opened and closed."""

    def __init__(self, refusal: Exception | None = None) -> None:
        self.feed = Feed(snapshot(7))
        self.refusal = refusal
        self.opened: list[dict[str, str | bytes]] = []
        self.closed = 0
        self.ended = False

    async def open(self, metadata: Metadata) -> Session:
        self.opened.append(dict(metadata))
        if self.refusal is not None:
            raise self.refusal
        one = await OneIdentity(self.feed).open(metadata)
        recorder = self

        class Recorded:
            feed = one.feed
            must_reconnect = one.must_reconnect

            def close(self) -> None:
                recorder.closed += 1
                one.close()

        return Recorded()

    def close(self) -> None:
        self.ended = True
        self.feed.close()


def as_it_is(data: bytes) -> bytes:
    return data


async def unary(session: Session, request: bytes, call: Call) -> bytes:
    assert session.feed.current is not None
    return request + b" %d" % session.feed.current.serial


async def answers(session: Session, request: bytes, call: Call) -> None:
    for number in range(3):
        await call.write(request + b"%d" % number)


async def echo(session: Session, request: None, call: Call) -> None:
    assert request is None
    while isinstance(message := await call.read(), bytes):
        await call.write(message)


def raising(error: Exception) -> Callable[[Session, bytes, Call], Awaitable[bytes]]:
    async def handler(session: Session, request: bytes, call: Call) -> bytes:
        raise error

    return handler


def admit(metadata: Metadata) -> None:
    if ("pass", "yes") not in tuple(metadata):
        raise CallRefusedError(grpc.StatusCode.INVALID_ARGUMENT, "no pass")


def row(name: str, kind: Kind, handler: Callable[..., Awaitable[object]], **more: object) -> Method:
    return Method(f"/test.Service/{name}", kind, handler, as_it_is, as_it_is, **more)  # type: ignore[arg-type]


TABLE = (
    row("Unary", Kind.UNARY, unary),
    row("Answers", Kind.SERVER_STREAM, answers),
    row("Echo", Kind.STREAM, echo),
    row("Admitted", Kind.UNARY, unary, admit=admit),
    row("Refused", Kind.UNARY, raising(RefusedError("a bad request", wanted="a good one"))),
    row("Denied", Kind.UNARY, raising(CallRefusedError(grpc.StatusCode.PERMISSION_DENIED, "not you"))),
    row("Broken", Kind.UNARY, raising(ValueError("secret in a traceback"))),
    row(
        "Strange",
        Kind.UNARY,
        unary,
        renamed={grpc.StatusCode.UNAUTHENTICATED: grpc.StatusCode.PERMISSION_DENIED},
    ),
    row("Impatient", Kind.UNARY, unary, impatient=True),
)

Scene = Callable[[grpc.aio.Channel], Awaitable[None]]


@pytest.fixture
def path(short_dir: Path) -> Path:
    directory = short_dir / "s"
    directory.mkdir(mode=0o750)
    return directory / "socket"


def serving(path: Path, sessions: Recorder, scene: Scene, table: tuple[Method, ...] = TABLE) -> None:
    async def main() -> None:
        server = SocketServer(path, sessions, table, patience=0.05)
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                await scene(channel)
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 30))


async def call(
    channel: grpc.aio.Channel, name: str, metadata: tuple[tuple[str, str], ...] = ()
) -> tuple[grpc.StatusCode, str]:
    path = name if name.startswith("/") else f"/test.Service/{name}"
    try:
        answer = await channel.unary_unary(path, as_it_is, as_it_is)(b"ask", metadata=metadata, timeout=SECOND)
    except grpc.aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return grpc.StatusCode.OK, answer.decode()


def test_each_kind_is_served_inside_a_session_that_is_closed(path: Path) -> None:
    sessions = Recorder()

    async def scene(channel: grpc.aio.Channel) -> None:
        assert await call(channel, "Unary", (("who", "me"),)) == (grpc.StatusCode.OK, "ask 7")
        stream = channel.unary_stream("/test.Service/Answers", as_it_is, as_it_is)(b"n", timeout=SECOND)
        assert [message async for message in stream] == [b"n0", b"n1", b"n2"]
        both = channel.stream_stream("/test.Service/Echo", as_it_is, as_it_is)(timeout=SECOND)
        for message in (b"a", b"b"):
            await both.write(message)
            assert await both.read() == message
        await both.done_writing()
        assert await both.code() is grpc.StatusCode.OK

    serving(path, sessions, scene)
    assert (len(sessions.opened), sessions.closed, sessions.ended) == (3, 3, True)
    assert sessions.opened[0]["who"] == "me"


def test_a_client_that_goes_away_in_the_middle_leaves_no_session_open(path: Path) -> None:
    sessions = Recorder()

    async def scene(channel: grpc.aio.Channel) -> None:
        both = channel.stream_stream("/test.Service/Echo", as_it_is, as_it_is)(timeout=SECOND)
        await both.write(b"a")
        await both.read()
        both.cancel()
        while not sessions.closed:
            await asyncio.sleep(0.01)

    serving(path, sessions, scene)


@pytest.mark.parametrize(
    ("name", "status", "words"),
    [
        ("Refused", grpc.StatusCode.INVALID_ARGUMENT, "a bad request; wanted: a good one"),
        ("Denied", grpc.StatusCode.PERMISSION_DENIED, "not you"),
        ("Broken", grpc.StatusCode.INTERNAL, "a fault of the agent: see its log"),
        ("Admitted", grpc.StatusCode.INVALID_ARGUMENT, "no pass"),
    ],
)
def test_refusals_and_faults(path: Path, name: str, status: grpc.StatusCode, words: str) -> None:
    sessions = Recorder()

    async def scene(channel: grpc.aio.Channel) -> None:
        assert await call(channel, name) == (status, words)
        assert await call(channel, "Unary") == (grpc.StatusCode.OK, "ask 7"), "the next call is served"

    serving(path, sessions, scene)
    assert sessions.closed == len(sessions.opened) == (1 if name == "Admitted" else 2)


def test_a_public_method_opens_no_session(path: Path) -> None:
    async def nobody(session: None, request: bytes, call: Call) -> bytes:
        assert session is None
        return request

    sessions = Recorder(CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, "not accepted"))

    async def scene(channel: grpc.aio.Channel) -> None:
        assert await call(channel, "Public") == (grpc.StatusCode.OK, "ask")

    serving(path, sessions, scene, (row("Public", Kind.UNARY, nobody, public=True),))
    assert (sessions.opened, sessions.closed) == ([], 0)


def test_the_headers_are_examined_before_a_session_is_opened(path: Path) -> None:
    sessions = Recorder()

    async def scene(channel: grpc.aio.Channel) -> None:
        assert (await call(channel, "Admitted"))[0] is grpc.StatusCode.INVALID_ARGUMENT
        assert sessions.opened == []
        assert await call(channel, "Admitted", (("pass", "yes"),)) == (grpc.StatusCode.OK, "ask 7")

    serving(path, sessions, scene)


def test_a_refused_session_is_the_faces_own_status(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sessions = Recorder(CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, "not accepted"))

    async def scene(channel: grpc.aio.Channel) -> None:
        assert await call(channel, "Unary") == (grpc.StatusCode.UNAUTHENTICATED, "not accepted")
        assert await call(channel, "Strange") == (grpc.StatusCode.PERMISSION_DENIED, "not accepted")

    with caplog.at_level(logging.WARNING):
        serving(path, sessions, scene)
    assert sessions.closed == 0
    assert [record.message for record in caplog.records] == ["a call is refused"] * 2


def test_only_a_session_is_renamed_a_handlers_own_status_is_not(path: Path) -> None:
    refusal = raising(CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, "not you"))
    table = (row("Own", Kind.UNARY, refusal, renamed={grpc.StatusCode.UNAUTHENTICATED: grpc.StatusCode.OUT_OF_RANGE}),)

    async def scene(channel: grpc.aio.Channel) -> None:
        assert await call(channel, "Own") == (grpc.StatusCode.UNAUTHENTICATED, "not you")

    serving(path, Recorder(), scene, table)


def test_a_session_that_takes_too_long_to_open_is_given_up(path: Path) -> None:
    class Slow(Recorder):
        given_up = 0

        async def open(self, metadata: Metadata) -> Session:
            try:
                await asyncio.sleep(3600)
            finally:
                self.given_up += 1
            raise AssertionError

    sessions = Slow()

    async def scene(channel: grpc.aio.Channel) -> None:
        said = "the CA has not answered for this call's token yet; to do: try again"
        assert await call(channel, "Impatient") == (grpc.StatusCode.UNAVAILABLE, said)
        assert sessions.given_up == 1
        patient = channel.unary_unary("/test.Service/Unary", as_it_is, as_it_is)(b"", timeout=0.5)
        assert await patient.code() is grpc.StatusCode.DEADLINE_EXCEEDED, "the client's own deadline"

    serving(path, sessions, scene)


@pytest.mark.parametrize("kind", [Kind.UNARY, Kind.SERVER_STREAM, Kind.STREAM])
@pytest.mark.parametrize("beyond", [0, 1])
def test_a_message_may_be_as_large_as_the_bound_and_no_larger(path: Path, kind: Kind, beyond: int) -> None:
    size = MAX_REQUEST_BYTES + beyond
    name = {Kind.UNARY: "Size", Kind.SERVER_STREAM: "Sizes", Kind.STREAM: "SizeOfEach"}[kind]

    async def size_of(session: Session, request: bytes, call: Call) -> bytes:
        return b"%d" % len(request)

    async def sizes(session: Session, request: bytes | None, call: Call) -> None:
        message = request if request is not None else await call.read()
        if message is not None:
            await call.write(b"%d" % len(message))

    table = (row("Size", Kind.UNARY, size_of), row("Sizes", Kind.SERVER_STREAM, sizes), row("SizeOfEach", kind, sizes))

    async def scene(channel: grpc.aio.Channel) -> None:
        answer = channel.stream_stream(f"/test.Service/{name}", as_it_is, as_it_is)(iter([bytes(size)]), timeout=SECOND)
        if not beyond:
            assert await answer.read() == b"%d" % size
        else:
            assert await answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert f"{size} vs. {MAX_REQUEST_BYTES}" in (await answer.details() or "")

    serving(path, Recorder(), scene, table)


@pytest.mark.parametrize("name", ["Unary", "Answers", "Echo"])
def test_what_a_stranger_sends_is_not_looked_at(path: Path, name: str) -> None:
    """No verdict on the bytes, and none on how many they are."""
    read: list[bytes] = []

    def decode(data: bytes) -> bytes:
        read.append(data)
        return data

    sessions = Recorder(CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, "not accepted"))
    table = tuple(dataclasses.replace(row, decode=decode) for row in TABLE)

    async def scene(channel: grpc.aio.Channel) -> None:
        for size in (1, MAX_REQUEST_BYTES + 1):
            message = iter([bytes(size)])
            call = channel.stream_stream(f"/test.Service/{name}", as_it_is, as_it_is)(message, timeout=SECOND)
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED

    serving(path, sessions, scene, table)
    assert read == []


def test_who_waits_for_its_session_cannot_make_us_hold_more_than_a_window(path: Path) -> None:
    """By itself gRPC widens a stream's window with every round trip, whether or not anybody reads: up to 8 MiB."""

    class Waiting(Recorder):
        async def open(self, metadata: Metadata) -> Session:
            await asyncio.get_running_loop().create_future()
            raise AssertionError

    chunk, taken = bytes(64 * 1024), 0

    async def scene(channel: grpc.aio.Channel) -> None:
        nonlocal taken
        calls = [channel.stream_stream("/test.Service/Echo", as_it_is, as_it_is)(timeout=60) for _ in range(8)]

        async def fill(call: grpc.aio.StreamStreamCall) -> None:  # type: ignore[type-arg]  # bytes
            nonlocal taken
            while taken < len(calls) * MAX_REQUEST_BYTES:
                await call.write(chunk)
                taken += len(chunk)

        _, filling = await asyncio.wait([asyncio.create_task(fill(call)) for call in calls], timeout=2)
        assert len(filling) == len(calls), "each is held up"
        for call in calls:
            call.cancel()
        await asyncio.gather(*filling, return_exceptions=True)
        assert taken <= len(calls) * 4 * len(chunk)

    serving(path, Waiting(), scene)


@pytest.mark.parametrize(
    ("compression", "status"),
    [(grpc.Compression.Gzip, grpc.StatusCode.OK), (grpc.Compression.Deflate, grpc.StatusCode.UNIMPLEMENTED)],
    ids=["gzip", "deflate"],
)
def test_a_client_may_compress_what_it_asks(path: Path, compression: grpc.Compression, status: grpc.StatusCode) -> None:
    async def scene(channel: grpc.aio.Channel) -> None:
        for size in (100_000, 1_000_000):
            method = channel.unary_unary("/test.Service/Unary", as_it_is, as_it_is)
            answer = method(bytes(size), compression=compression, timeout=SECOND)
            assert await answer.code() is status
            if status is grpc.StatusCode.OK:
                assert await answer == bytes(size) + b" 7"

    serving(path, Recorder(), scene)


def test_large_answers_to_many_calls_of_one_connection(path: Path) -> None:
    """More than the windows of the connection and of each call, and than the transport's buffer."""
    size = 2_000_000

    async def large(session: Session, request: bytes, call: Call) -> bytes:
        return request * size

    async def scene(channel: grpc.aio.Channel) -> None:
        method = channel.unary_unary("/test.Service/Large", as_it_is, as_it_is)
        for answer in await asyncio.gather(*(method(b"x", timeout=30) for _ in range(10))):
            assert answer == b"x" * size

    serving(path, Recorder(), scene, (row("Large", Kind.UNARY, large),))


def test_a_call_without_its_request_is_refused(path: Path) -> None:
    async def scene(channel: grpc.aio.Channel) -> None:
        call = channel.stream_stream("/test.Service/Unary", as_it_is, as_it_is)(iter(()), timeout=SECOND)
        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert await call.details() == "the call brings no request; wanted: one message"

    serving(path, Recorder(), scene)


@pytest.mark.parametrize(
    "name", ["Other", "unary", "Unary/", "/test.Other/Unary", paths.CREATE_CERTIFICATE, paths.STREAM_SECRETS, "/x"]
)
def test_what_has_no_row_is_unimplemented_and_opens_no_session(path: Path, name: str) -> None:
    sessions = Recorder()

    async def scene(channel: grpc.aio.Channel) -> None:
        assert (await call(channel, name))[0] is grpc.StatusCode.UNIMPLEMENTED

    serving(path, sessions, scene)
    assert sessions.opened == []


def test_a_path_twice_in_the_table_is_a_fault_of_ours(path: Path) -> None:
    with pytest.raises(ValueError, match="twice"):
        asyncio.run(SocketServer(path, Recorder(), (*TABLE, TABLE[0])).start())


def test_the_whole_surface_of_the_agents_socket() -> None:
    """Whoever adds a method adds it here, and thinks of who may call it."""
    service = "/envoy.service.secret.v3.SecretDiscoveryService/"
    secrets = {service + name for name in ("StreamSecrets", "DeltaSecrets", "FetchSecrets")}
    reflection = {paths.REFLECTION, paths.REFLECTION_ALPHA}
    table = with_reflection((*sds_methods(), *workload_methods()))
    found = {method.path for method in table}
    assert secrets | reflection < found
    assert all(path in secrets | reflection or path.startswith("/SpiffeWorkloadAPI/") for path in found)
    assert {method.path for method in table if method.public} == reflection
    guarded = [method for method in workload_methods() if method.admit is not None]
    assert len(guarded) == len(workload_methods()), "the Workload API's header rule holds for every method"
