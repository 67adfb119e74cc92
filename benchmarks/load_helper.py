"""A process that calls a CA: so many connections, so many calls in flight, every token another one."""

from __future__ import annotations

import asyncio
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
from grpc import aio

from benchmarks.processes import LOAD_CORE, Message, answer_requests, pin, usage
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshpki.wire.methods import CREATE_CERTIFICATE
from support.authority import key, make_csr

if TYPE_CHECKING:
    from collections.abc import Iterator


PAUSE_SECONDS = 0.1


class Load:
    """Closed loop: each of `in_flight` workers sends its next call when the last was answered."""

    def __init__(
        self,
        *,
        address: str,
        roots: str,
        name: str,
        tokens: str,
        connections: int,
        in_flight: int,
        patient: bool = False,
    ) -> None:
        """`patient`: ask again, as an agent does, when the server says UNAVAILABLE; the time counts."""
        self._patient = patient
        self._sent_away = 0
        self._target = (address, roots.encode(), name)
        self._connections = connections
        self._in_flight = in_flight
        self._tokens = [f"Bearer {token}" for token in Path(tokens).read_text(encoding="ascii").split()]
        self._requests = [
            IstioCertificateRequest(csr=make_csr(key(number=number)), validity_duration=3600).SerializeToString()
            for number in range(16)
        ]
        self._channels: list[aio.Channel] = []

    def _channel(self) -> aio.Channel:
        address, roots, name = self._target
        options = (("grpc.ssl_target_name_override", name), ("grpc.use_local_subchannel_pool", 1))
        return aio.secure_channel(address, grpc.ssl_channel_credentials(roots), options=options)

    async def run(self, calls: int, new_connections: bool) -> Message:
        """Make so many calls; says how long each took."""
        numbers = itertools.count()
        latencies: list[float] = []
        if not new_connections and not self._channels:
            self._channels = [self._channel() for _ in range(self._connections)]
        began = time.perf_counter()
        await asyncio.gather(
            *(self._worker(index, numbers, calls, latencies, new_connections) for index in range(self._in_flight))
        )
        elapsed = time.perf_counter() - began
        latencies.sort()
        return {
            "calls": len(latencies),
            "seconds": elapsed,
            "p50_ms": latencies[len(latencies) // 2] * 1000,
            "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
            "max_ms": latencies[-1] * 1000,
            "sent_away": self._sent_away,
        }

    async def _worker(
        self, index: int, numbers: Iterator[int], calls: int, latencies: list[float], new_connections: bool
    ) -> None:
        while (number := next(numbers)) < calls:
            request = self._requests[number % len(self._requests)]
            metadata = (("authorization", self._tokens[number % len(self._tokens)]),)
            began = time.perf_counter()
            if new_connections:
                async with self._channel() as channel:
                    answer = await _call(channel, request, metadata)
            else:
                channel = self._channels[index % self._connections]
                answer = await self._served(channel, request, metadata)
            latencies.append(time.perf_counter() - began)
            if number == 0 and answer.strip(b"\0"):
                assert len(IstioCertificateResponse.FromString(answer).cert_chain) >= 2

    async def _served(self, channel: aio.Channel, request: bytes, metadata: tuple[tuple[str, str], ...]) -> bytes:
        while True:
            try:
                return await _call(channel, request, metadata)
            except aio.AioRpcError as error:
                if not self._patient or error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
            self._sent_away += 1
            await asyncio.sleep(PAUSE_SECONDS)


async def _call(channel: aio.Channel, request: bytes, metadata: tuple[tuple[str, str], ...]) -> bytes:
    method: aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CREATE_CERTIFICATE)
    return await method(request, metadata=metadata)


def main() -> None:
    """Serve the parent's wishes in one event loop."""
    loops: list[Load] = []
    runner = asyncio.Runner()

    def start(**arguments: Any) -> Message:  # Any: what `Load` takes
        pin(LOAD_CORE)
        loops.append(Load(**arguments))
        return {}

    def run(calls: int, new_connections: bool = False) -> Message:
        return runner.run(loops[-1].run(calls, new_connections))

    with runner:
        answer_requests({"start": start, "run": run, "usage": usage})


if __name__ == "__main__":
    main()
