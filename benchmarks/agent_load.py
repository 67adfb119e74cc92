"""A process that subscribes as Envoys do: again and again to measure, or once and for good to be a workload."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, TypeAlias

import grpc
from grpc import aio

from benchmarks.envoy_node import envoy_node
from benchmarks.processes import LOAD_CORE, Message, answer_requests, pin
from meshpki.agent.node.token import ISTIO_HEADER
from meshpki.wire.methods import SECRET_TYPE_URL, STREAM_SECRETS
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse
from support.agent_process import fake_token

if TYPE_CHECKING:
    from collections.abc import Sequence

Stream: TypeAlias = "aio.StreamStreamCall[bytes, bytes]"
AT_ONCE = 50
SECRETS = ("default", "ROOTCA")
SHAPES = {
    "node": ((("default",),), (("ROOTCA",),)),
    "pod": ((("default",), ("ROOTCA",)),),
    "together": ((SECRETS,),),
}
"""Connections, their streams, and the names that each asks for.

An Envoy opens a stream for each secret. With call credentials, as a node's agent needs them, its Google gRPC client
makes a connection for each stream too; without, they share one. Other clients may ask for both on one stream.
"""


class Load:
    """Streams with bytes in and out: what the client itself costs is small and the same for every server."""

    def __init__(self) -> None:
        self._held: list[object] = []
        self._channels: dict[str, aio.Channel] = {}

    async def subscribe(self, path: str, times: int, new_connections: bool) -> Message:
        """One stream after the other: seconds from the subscription's first byte to the secret in hand."""
        found: list[float] = []
        subscription = _subscription("load", SECRETS)
        for _ in range(times):
            began = time.perf_counter()
            channel = _channel(path) if new_connections else self._channel(path)
            stream: Stream = channel.stream_stream(STREAM_SECRETS)()
            await stream.write(subscription)
            answer = await stream.read()
            found.append(time.perf_counter() - began)
            assert isinstance(answer, bytes)
            assert len(answer) > 1000
            stream.cancel()
            if new_connections:
                await channel.close()
        return {"seconds": found}

    async def hold(self, path: str, first: int, count: int, shape: str) -> Message:
        """Be so many workloads: each with a token and connections of its own."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def workload(number: int) -> None:
            token = fake_token(expires_at=time.time() + 86_400, mark=str(number))
            async with gate:
                header = ((ISTIO_HEADER, token.encode()),)
                for subscriptions in SHAPES[shape]:
                    self._held.append(await _hold(path, header, f"workload-{number}", subscriptions))

        await asyncio.gather(*(workload(number) for number in range(first, first + count)))
        return {"held": len(self._held)}

    def _channel(self, path: str) -> aio.Channel:
        if path not in self._channels:
            self._channels[path] = _channel(path)
        return self._channels[path]


async def _hold(
    path: str, metadata: Sequence[tuple[str, bytes]], workload: str, subscriptions: Sequence[Sequence[str]]
) -> object:
    """Subscribe as an Envoy does, which says who it is with each stream's first message, and acknowledge the answer."""
    channel = _channel(path)
    streams = []
    for names in subscriptions:
        stream: Stream = channel.stream_stream(STREAM_SECRETS)(metadata=tuple(metadata))
        await stream.write(_subscription(workload, names))
        streams.append((stream, names))
    for stream, names in streams:
        answer = await stream.read()
        assert isinstance(answer, bytes)
        assert len(answer) > 100
        await stream.write(_acknowledgement(answer, names))
    return channel, streams


def _subscription(workload: str, names: Sequence[str]) -> bytes:
    request = DiscoveryRequest(node=envoy_node(workload), resource_names=names, type_url=SECRET_TYPE_URL)
    return request.SerializeToString()


def _acknowledgement(answer: bytes, names: Sequence[str]) -> bytes:
    read = DiscoveryResponse.FromString(answer)
    return DiscoveryRequest(
        resource_names=names, type_url=SECRET_TYPE_URL, version_info=read.version_info, response_nonce=read.nonce
    ).SerializeToString()


def _channel(path: str) -> aio.Channel:
    return aio.insecure_channel(f"unix:{path}", options=[("grpc.use_local_subchannel_pool", 1)])


def main() -> None:
    """Serve the parent's wishes in one event loop."""
    load = Load()
    with asyncio.Runner() as runner:

        def start() -> Message:
            pin(LOAD_CORE)
            runner.run(asyncio.sleep(0))
            return {}

        def subscribe(path: str, times: int, new_connections: bool = False) -> Message:
            return runner.run(load.subscribe(path, times, new_connections))

        def hold(path: str, first: int, count: int, shape: str) -> Message:
            return runner.run(load.hold(path, first, count, shape))

        answer_requests({"start": start, "subscribe": subscribe, "hold": hold})


if __name__ == "__main__":
    grpc.aio.init_grpc_aio()
    main()
