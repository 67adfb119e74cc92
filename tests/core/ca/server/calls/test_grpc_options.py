"""What the options of the gRPC server hold on the wire, by a server that has nothing else."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from meshpki.ca.server.calls.grpc_options import MAX_MESSAGE_BYTES
from meshpki.ca.server.calls.methods import Call, Method
from meshpki.errors import WouldWaitError
from support.reception import serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

PATH = "/test.Service/Waits"
CALLS = 4
CHUNK = bytes(MAX_MESSAGE_BYTES // 2)
ENOUGH = 8 * MAX_MESSAGE_BYTES
"""Of each call. gRPC by itself took 8 MiB of each."""
SILENCE_SECONDS = 2.0


def test_who_waits_for_a_verdict_cannot_make_us_hold_more_than_a_window() -> None:
    """By itself gRPC widens a stream's window with every round trip, whether or not anybody reads."""
    judged = threading.Event()

    def rule(call: Call, *, at_once: bool) -> None:
        if at_once:
            raise WouldWaitError
        assert judged.wait(60)

    taken = [0] * CALLS

    def chunks(number: int) -> Iterator[bytes]:
        while taken[number] < ENOUGH and not judged.is_set():
            taken[number] += len(CHUNK)
            yield CHUNK

    with serving(Method(PATH, rule, lambda call, granted, request: b"")) as served:
        method: grpc.StreamUnaryMultiCallable[bytes, bytes] = served.channel.stream_unary(PATH)
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
