"""Server reflection: every question, a stream's bounds, and a public client that calls by what it is told."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (  # type: ignore[import-untyped]  # ships no types
    ProtoReflectionDescriptorDatabase,
)

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket.reflection import MAX_NAME, MESSAGES, NOT_FOUND, Reflection, Served
from meshpki.agent.socket.reflection_service import _STREAMING, AT_ONCE, with_reflection
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import CallRefusedError, OneIdentity
from meshpki.agent.workload.service import OFF, workload_methods
from meshpki.errors import RefusedError
from meshpki.wire import methods
from meshpki.wire.reflection_pb2 import ExtensionRequest, ServerReflectionRequest, ServerReflectionResponse
from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.fake_ca import SPIFFE_ID, FakeCa
from support.node_agent import NodeAgentProcess
from support.snapshots import snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

    from meshpki.agent.socket.sessions import Metadata, Session

SECOND = 30.0
TABLE = with_reflection((*sds_methods(), *workload_methods()))
REFLECTION = Reflection(Served(row.path, *_STREAMING[row.kind]) for row in TABLE)
METHODS = [path.lstrip("/").replace("/", ".") for path in MESSAGES]
SERVICES = [
    "SpiffeWorkloadAPI",
    "envoy.service.secret.v3.SecretDiscoveryService",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
]


def ask(**question: Any) -> ServerReflectionResponse:
    request = ServerReflectionRequest(host="here", **question)
    response = REFLECTION.answer(request)
    assert (response.valid_host, response.original_request) == ("here", request)
    return response


def files(response: ServerReflectionResponse) -> list[FileDescriptorProto]:
    return [FileDescriptorProto.FromString(body) for body in response.file_descriptor_response.file_descriptor_proto]


def test_the_services_are_those_of_the_table() -> None:
    assert [service.name for service in ask(list_services="*").list_services_response.service] == SERVICES


@pytest.mark.parametrize(
    "symbol",
    [
        *SERVICES,
        *METHODS,
        "meshpki.wire.sds.Secret",
        "meshpki.wire.sds.SPIFFECertValidatorConfig.TrustDomain",
        "meshpki.wire.workload.X509SVIDResponse",
        "google.protobuf.Any",
        "google.protobuf.NullValue",
    ],
)
def test_a_symbol_is_given_with_all_that_its_file_needs(symbol: str) -> None:
    found = files(ask(file_containing_symbol=symbol))
    assert files(ask(file_by_filename=found[0].name)) == found
    pool = DescriptorPool()
    for file in reversed(found):
        pool.Add(file)
    service = symbol.rpartition(".")[0] if symbol in METHODS else symbol
    assert pool.FindFileContainingSymbol(service).name == found[0].name  # protobuf's pool finds no methods


@pytest.mark.parametrize(
    "question",
    [
        {"file_by_filename": "none.proto"},
        {"file_by_filename": ""},
        {"file_containing_symbol": "none.Of.These"},
        {"file_containing_symbol": "SpiffeWorkloadAPI.FetchJWTSVID"},
        {"all_extension_numbers_of_type": "none.Of.These"},
        {"file_containing_extension": ExtensionRequest(containing_type="meshpki.wire.sds.Secret", extension_number=1)},
    ],
    ids=str,
)
def test_what_is_not_there_is_not_found(question: dict[str, Any]) -> None:
    assert ask(**question).error_response.error_code == NOT_FOUND == grpc.StatusCode.NOT_FOUND.value[0]


def test_no_message_has_extensions() -> None:
    answer = ask(all_extension_numbers_of_type="meshpki.wire.sds.Secret").all_extension_numbers_response
    assert (answer.base_type_name, list(answer.extension_number)) == ("meshpki.wire.sds.Secret", [])


@pytest.mark.parametrize("request_", [{}, {"file_by_filename": "x" * MAX_NAME}], ids=["nothing", "too much"])
def test_what_is_no_question_is_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(RefusedError):
        REFLECTION.answer(ServerReflectionRequest(**request_))


def test_each_method_is_described_by_the_messages_that_it_reads() -> None:
    rows = {row.path: row for row in TABLE if not row.public}
    assert set(rows) - set(OFF) == set(MESSAGES) - {methods.REFLECTION, methods.REFLECTION_ALPHA}
    for path in set(rows) - set(OFF):
        assert rows[path].decode == MESSAGES[path][0].FromString


class Nobody(OneIdentity):
    """A node's socket before a caller without a token."""

    async def open(self, metadata: Metadata) -> Session:
        raise CallRefusedError(grpc.StatusCode.UNAUTHENTICATED, "the call brings no token")


LIST = ServerReflectionRequest(list_services="*").SerializeToString()


def serving(
    directory: Path,
    scene: Callable[[Callable[[], grpc.aio.StreamStreamCall[bytes, bytes]]], Awaitable[None]],
    *,
    seconds: float = 60.0,
) -> None:
    async def main() -> None:
        (directory / "s").mkdir(mode=0o750)
        path = directory / "s" / "socket"
        server = SocketServer(path, Nobody(Feed(snapshot(1))), with_reflection(sds_methods(), seconds=seconds))
        await server.start()
        try:
            async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
                method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(methods.REFLECTION)
                await scene(lambda: method(timeout=SECOND))
        finally:
            await server.stop()

    asyncio.run(asyncio.wait_for(main(), 90))


async def answered(call: grpc.aio.StreamStreamCall[bytes, bytes]) -> int:
    """How many services it tells of."""
    await call.write(LIST)
    body = await call.read()
    assert isinstance(body, bytes)
    return len(ServerReflectionResponse.FromString(body).list_services_response.service)


def test_no_token_is_needed_and_many_questions_may_be_asked(short_dir: Path) -> None:
    async def scene(open_stream: Callable[[], grpc.aio.StreamStreamCall[bytes, bytes]]) -> None:
        stream = open_stream()
        for _ in range(3):
            assert await answered(stream) == 3
        await stream.done_writing()
        assert await stream.code() is grpc.StatusCode.OK

    serving(short_dir, scene)


@pytest.mark.parametrize("body", [b"", b"\xff" * 11, b"\x1a\xff\x07" + b"x" * 1023], ids=["nothing", "garbage", "much"])
def test_a_bad_question_ends_its_stream(short_dir: Path, body: bytes) -> None:
    async def scene(open_stream: Callable[[], grpc.aio.StreamStreamCall[bytes, bytes]]) -> None:
        stream = open_stream()
        await stream.write(body)
        assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT

    serving(short_dir, scene)


def test_only_so_many_at_once(short_dir: Path) -> None:
    async def scene(open_stream: Callable[[], grpc.aio.StreamStreamCall[bytes, bytes]]) -> None:
        streams = [open_stream() for _ in range(AT_ONCE)]
        for stream in streams:
            assert await answered(stream) == 3
        one_more = open_stream()
        await one_more.write(LIST)
        assert await one_more.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        await streams[0].done_writing()
        assert await streams[0].code() is grpc.StatusCode.OK
        assert await answered(open_stream()) == 3

    serving(short_dir, scene)


def test_each_for_so_long(short_dir: Path) -> None:
    async def scene(open_stream: Callable[[], grpc.aio.StreamStreamCall[bytes, bytes]]) -> None:
        for _ in range(AT_ONCE + 1):
            assert await open_stream().code() is grpc.StatusCode.OK

    serving(short_dir, scene, seconds=0.05)


def test_an_agent_loads_nothing_for_it_before_somebody_asks() -> None:
    program = """
import sys
from meshpki.agent.pod import faces
from meshpki.agent.node import run as node_run
from meshpki.agent.socket.reflection_service import with_reflection
with_reflection(())
print(sorted(name for name in sys.modules if name.startswith("meshpki") and "reflection" in name))
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "['meshpki.agent.socket.reflection_service']"


class AsV1(grpc.StreamStreamClientInterceptor):
    """The public client speaks v1alpha; v1 has the same messages under another path."""

    def intercept_stream_stream(self, continuation: Any, details: Any, requests: Any) -> Any:
        assert details.method == methods.REFLECTION_ALPHA
        return continuation(details._replace(method=methods.REFLECTION), requests)


@contextlib.contextmanager
def running(mode: str, made: AgentFiles, ca: FakeCa) -> Iterator[Path]:
    if mode == "pod":
        with AgentProcess(made.config(ca), made.log):
            wait_until(made.socket.is_socket, "the socket")
            yield made.socket
    else:
        with NodeAgentProcess(made.directory, ca.address) as agent:
            yield agent.socket


@pytest.mark.e2e
@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize("mode", ["pod", "node"])
def test_a_public_client_lists_describes_and_calls(
    short_dir: Path, files: AgentFiles, ca: FakeCa, mode: str, version: str
) -> None:
    """As grpcurl does, with nothing of ours on its side."""
    files.write_token(expires_at=time.time() + 3600)
    with running(mode, files, ca) as socket, grpc.insecure_channel(f"unix:{socket}") as plain:
        known = ProtoReflectionDescriptorDatabase(grpc.intercept_channel(plain, AsV1()) if version == "v1" else plain)
        assert sorted(known.get_services()) == SERVICES
        pool: Any = DescriptorPool(known)
        secrets = pool.FindServiceByName("envoy.service.secret.v3.SecretDiscoveryService")
        assert [method.name for method in secrets.methods] == ["StreamSecrets", "DeltaSecrets", "FetchSecrets"]
        (fetch,) = (
            method for method in pool.FindServiceByName("SpiffeWorkloadAPI").methods if method.name == "FetchX509SVID"
        )
        assert (fetch.client_streaming, fetch.server_streaming) == (False, True)
        call: Any = plain.unary_stream(
            f"/{fetch.containing_service.full_name}/{fetch.name}",
            GetMessageClass(fetch.input_type).SerializeToString,
            GetMessageClass(fetch.output_type).FromString,
        )
        answers = call(GetMessageClass(fetch.input_type)(), metadata=(("workload.spiffe.io", "true"),), timeout=SECOND)
        if mode == "pod":
            assert [svid.spiffe_id for svid in next(answers).svids] == [SPIFFE_ID]
        else:
            with pytest.raises(grpc.RpcError) as caught:
                next(answers)
            assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED, "what is served needs a token"
