"""What the options of the gRPC server hold on the wire, by a server that has nothing else."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import grpc

from meshpki.ca.server.grpc_options import MAX_MESSAGE_BYTES, OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/test.Service/Waits"
CALLS = 4
CHUNK = bytes(MAX_MESSAGE_BYTES // 2)
ENOUGH = 8 * MAX_MESSAGE_BYTES
"""Of each call. gRPC by itself took 8 MiB of each."""
SILENCE_SECONDS = 2.0


def test_who_waits_for_a_verdict_cannot_make_us_hold_more_than_a_window() -> None:
    """By itself gRPC widens a stream's window with every round trip, whether or not anybody reads."""
    judged = threading.Event()

    def behavior(_: Iterator[bytes], __: grpc.ServicerContext) -> bytes:
        judged.wait(60)
        return b""

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(behavior)
    server = grpc.server(ThreadPoolExecutor(CALLS), options=OPTIONS)
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Service", {"Waits": handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    taken = [0] * CALLS

    def chunks(number: int) -> Iterator[bytes]:
        while taken[number] < ENOUGH and not judged.is_set():
            taken[number] += len(CHUNK)
            yield CHUNK

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(PATH)
        calls = [method.future(chunks(number), timeout=60) for number in range(CALLS)]
        before, last = [-1], time.monotonic()
        while time.monotonic() - last < SILENCE_SECONDS and min(taken) < ENOUGH:
            if before != taken:
                before, last = taken.copy(), time.monotonic()
            time.sleep(0.02)
        assert max(taken) <= 4 * MAX_MESSAGE_BYTES, "each is held up"
        judged.set()
        for call in calls:
            assert call.result(60) == b""
    server.stop(None).wait()
