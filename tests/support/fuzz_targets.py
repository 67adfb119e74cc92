"""What reads bytes of strangers, as functions of any bytes: each raises only when something is wrong with us.

Run by libFuzzer (`make fuzz`), which looks for new paths for as long as it is given, and by hypothesis in the tests.
"""

from __future__ import annotations

import base64
import contextlib
import time
from typing import TYPE_CHECKING, Final

from google.protobuf.message import DecodeError
from h2.errors import ErrorCodes

from meshpki.agent.node.token import ISTIO_HEADER, token_of
from meshpki.agent.renewal.cache import CacheError
from meshpki.agent.renewal.cache import _parse as parse_cache
from meshpki.agent.rotation.bundle import read_roots
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.agent.sds.delta import DeltaStream
from meshpki.agent.sds.fetch import fetch
from meshpki.agent.sds.node import validation_of
from meshpki.agent.sds.resources import Resources, resources_of
from meshpki.agent.sds.stream import SdsStream
from meshpki.agent.socket.http2.connection import Connection
from meshpki.agent.socket.http2.events import CallBegun, CallMoved
from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.messages import MessageRefusedError
from meshpki.agent.socket.reflection import MESSAGES, Reflection, Served
from meshpki.ca.csr import read_csr
from meshpki.ca.reasons import CsrRefusedError
from meshpki.errors import InvalidValueError, RefusedError
from meshpki.tokens import bearer
from meshpki.tokens.parse import parse
from meshpki.tokens.reasons import TokenRefusedError
from meshpki.wire.reflection_pb2 import ServerReflectionRequest
from meshpki.wire.sds_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
    Secret,
)
from support.agent_process import fake_token
from support.authority import make_authority
from support.http2 import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    headers_of,
)
from support.snapshots import snapshot
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Response = DiscoveryResponse | DeltaDiscoveryResponse
REFLECTION: Final = Reflection(Served(path, client_streams=True, server_streams=True) for path in MESSAGES)
PUBLISH: Final = 255
"""In a sequence: not the length of a request, but a new certificate."""


def token(data: bytes) -> None:
    """The CA's parser of tokens, and the agent's, which must not take for a token what holds none."""
    try:
        parsed = parse(data)
    except TokenRefusedError:
        parsed = None
    try:
        of_stream = token_of(((ISTIO_HEADER, data),), ISTIO_HEADER)
    except TokenRefusedError:
        assert parsed is None, "the agent refuses what the CA would look at"
    else:
        assert of_stream.text.encode() in data
    with contextlib.suppress(TokenRefusedError):
        assert bearer.extract([b"Bearer " + data]) == data


def csr(data: bytes) -> None:
    """The CA's reader of requests: PEM as it came, or DER in an envelope of ours, so that mutations get inside."""
    pem = data
    if not data.startswith(b"-"):
        body = base64.encodebytes(data)
        pem = b"-----BEGIN CERTIFICATE REQUEST-----\n" + body + b"-----END CERTIFICATE REQUEST-----\n"
    with contextlib.suppress(CsrRefusedError):
        assert read_csr(pem).spki


def sds(data: bytes) -> None:
    """A stream's requests and new certificates in any order: the protocol's rules hold in every answer."""
    delta = data[:1] > b"\x7f"
    serial, resources = 1, resources_of(snapshot(1))
    stream = DeltaStream(resources) if delta else SdsStream(resources)
    nonce = 0
    for message in _messages(data[1:]):
        if message is None:
            serial += 1
            resources = resources_of(snapshot(serial, bundle=b"roots %d" % (serial // 2)))
            answer: Response | None = stream.update(resources)
        else:
            try:
                answer = stream.request((DeltaDiscoveryRequest if delta else DiscoveryRequest).FromString(message))  # type: ignore[arg-type]  # each its own
            except (DecodeError, RefusedError):
                return  # either ends the stream
        if answer is not None:
            assert int(answer.nonce) == nonce + 1
            nonce += 1
            _check(answer, resources)


def fetching(data: bytes) -> None:
    """One call, and the node's own words about itself."""
    try:
        request = DiscoveryRequest.FromString(data)
        resources = resources_of(snapshot(1), validation_of(request.node))
        _check(fetch(request, resources), resources)
    except (DecodeError, RefusedError):
        pass


def reflection(data: bytes) -> None:
    """A question about our services, which needs no credential: the answer repeats it, and is one of few."""
    try:
        request = ServerReflectionRequest.FromString(data)
        answer = REFLECTION.answer(request)
    except (DecodeError, RefusedError):
        return
    assert answer.original_request.SerializeToString() == request.SerializeToString()
    assert answer.WhichOneof("message_response") is not None


def http2(data: bytes) -> None:
    """A client on the agent's socket, in pieces as long as the first byte says: its connection ends, or it does not."""
    limits = Limits(message=1000, headers=4096, block=16_384, streams=20, burst=10, each_second=1.0)
    ours, wire, step = Connection(limits, 0.0), PREFACE + frame(SETTINGS) + data[1:], sum(data[:1]) + 1
    for at in range(0, len(wire), step):
        was_over = ours.over
        found = ours.receive(memoryview(wire[at : at + step]), 0.0)
        assert not (was_over and found), "nothing is looked at after the end"
        for event in found:
            if isinstance(event, CallBegun):
                ours.send(event.stream, memoryview(b"x" * 100))
            if isinstance(event, CallMoved):
                try:
                    ours.read(event.stream)
                except MessageRefusedError as error:
                    ours.finish(event.stream, 3, error.words)
        ours.to_send()
    ours.end(ErrorCodes.NO_ERROR)
    ours.forget()


def files(data: bytes) -> None:
    """What the agent reads from its own machine, cut and garbled."""
    with contextlib.suppress(InvalidValueError):
        assert read_roots(data)
    with contextlib.suppress(CacheError):
        parse_cache(data)


def _messages(data: bytes) -> Iterator[bytes | None]:
    """Each behind its length in one byte; None for a new certificate."""
    at = 0
    while at < len(data):
        length = data[at]
        yield None if length == PUBLISH else data[at + 1 : at + 1 + length]
        at += 1 if length == PUBLISH else 1 + length


def _check(answer: Response, resources: Resources) -> None:
    if isinstance(answer, DiscoveryResponse):
        bodies = [item.value for item in answer.resources]
    else:
        bodies = [item.resource.value for item in answer.resources]
        assert set(answer.removed_resources).isdisjoint(resources.by_name)
    names = [Secret.FromString(body).name for body in bodies]
    assert bodies == [resources.by_name[name].body for name in names], "nothing but this workload's own"
    assert len(names) == len(set(names)), "a name twice is a NACK"


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "token": token,
    "csr": csr,
    "sds": sds,
    "fetching": fetching,
    "reflection": reflection,
    "http2": http2,
    "files": files,
}


def seeds(name: str) -> list[bytes]:
    """Good inputs to begin with: from nothing a fuzzer does not find its way into a signed request."""
    first = DiscoveryRequest(resource_names=["default", "ROOTCA", "*"], response_nonce="1")
    delta = DeltaDiscoveryRequest(resource_names_subscribe=["default", "x"], initial_resource_versions={"default": "1"})
    match name:
        case "token":
            return [TokenMaker().token(now=time.time()), fake_token().encode()]
        case "csr":
            pem = new_key_request(KeyType.EC_P256).csr_pem.encode()
            return [pem, base64.b64decode(b"".join(pem.splitlines()[1:-1]))]
        case "sds":
            one, two = first.SerializeToString(), delta.SerializeToString()
            publish = bytes([PUBLISH])
            return [
                kind + bytes([len(message)]) + message + publish + bytes([len(message)]) + message
                for kind, message in ((b"\x00", one), (b"\xff", two))
            ]
        case "http2":
            call = frame(HEADERS, END_HEADERS, headers_of("/a.B/C"), 1)
            message = b"\0\0\0\0\3abc"
            ended = frame(DATA, END_STREAM, message, 1)
            reset = frame(DATA, 0, message, 1) + frame(RST_STREAM, payload=bytes(4), stream=1)
            return [
                step + call + rest + frame(PING, payload=bytes(8))
                for step in (b"\2", b"\xff")
                for rest in (ended, reset)
            ]
        case "reflection":
            symbol = ServerReflectionRequest(file_containing_symbol="SpiffeWorkloadAPI")
            return [symbol.SerializeToString(), ServerReflectionRequest(list_services="*").SerializeToString()]
        case "fetching":
            return [first.SerializeToString()]
        case _:
            return [make_authority().root_pem]
