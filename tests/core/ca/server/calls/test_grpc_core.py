"""gRPC's core without anything of ours around it: the queue, a server's life, and that nobody else knows its inside."""

from __future__ import annotations

import ast
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

import meshpki
from meshpki.ca.server.calls.grpc_core import CompletionQueue, CoreCall, CoreServer, Event, call_of, message_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATH = "/test.Service/Method"


class Loop:
    """A server on a port, and what its queue told, which the test takes step by step."""

    def __init__(self) -> None:
        self.queue = CompletionQueue()
        self.server = CoreServer(self.queue, ())
        self.port = self.server.listen("127.0.0.1:0", None)
        self.told: list[tuple[str, Event]] = []

    def tag(self, name: str) -> Callable[[Event], object]:
        return lambda event: self.told.append((name, event))

    def step(self, seconds: float = 60.0) -> tuple[str, Event]:
        event = self.queue.next(seconds)
        assert event is not None
        event.tag(event)
        return self.told[-1]

    def end(self) -> None:
        self.server.shut_down(self.tag("end"))
        self.server.cancel_all_calls()
        while self.step()[0] != "end":
            pass
        self.server.destroy()


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    loop.server.start()
    yield loop
    loop.end()


@pytest.fixture
def channel(loop: Loop) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{loop.port}", options=[("grpc.enable_retries", 0)]) as channel:
        yield channel


def test_where_nothing_happens_it_is_said_in_time(loop: Loop) -> None:
    began = time.monotonic()
    assert loop.queue.next(0.0) is None
    assert loop.queue.next(0.05) is None
    assert 0.04 < time.monotonic() - began < 10


def test_no_time_to_wait_is_none_at_all(loop: Loop) -> None:
    """A lone request is worked on after such a look: gRPC would make a millisecond of a deadline that is just over."""
    took = []
    for _ in range(50):
        began = time.perf_counter()
        assert loop.queue.next(0.0) is None
        took.append(time.perf_counter() - began)
    assert min(took) < 0.0005


def test_a_call_its_request_and_its_end(loop: Loop, channel: grpc.Channel) -> None:
    method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PATH)
    loop.server.accept(loop.tag("call"))
    pending = method.future(b"request", metadata=(("who", "me"),), timeout=60)
    name, event = loop.step()
    assert name == "call"
    found = call_of(event)
    assert found is not None
    assert found[0] == PATH
    assert ("who", "me") in [tuple(pair) for pair in found[1]]
    call = CoreCall(event)
    assert call.peer().startswith("ipv4:127.0.0.1:")
    assert call.certificate() == b""
    call.receive(loop.tag("request"))
    name, event = loop.step()
    assert (name, message_of(event)) == ("request", b"request")
    call.answer(b"answer", loop.tag("answered"))
    assert loop.step()[0] == "answered"
    assert pending.result(60) == b"answer"


def test_whoever_waits_for_a_call_hears_when_there_will_be_none() -> None:
    loop = Loop()
    loop.server.start()
    loop.server.accept(loop.tag("call"))
    loop.server.shut_down(loop.tag("end"))
    told = dict([loop.step(), loop.step()])
    assert set(told) == {"call", "end"}
    assert call_of(told["call"]) is None
    loop.server.accept(loop.tag("late"))  # whoever asks then is told nothing any more
    assert loop.queue.next(0.1) is None
    loop.server.destroy()


def test_a_server_is_freed_only_when_what_ends_it_has_returned() -> None:
    """Else the process ends with a segmentation fault, some times in a hundred."""
    for _ in range(200):
        loop = Loop()
        loop.server.start()
        loop.server.accept(loop.tag("call"))

        def freeing(loop: Loop = loop) -> None:
            while loop.step()[0] != "end":
                pass
            loop.server.destroy()

        thread = threading.Thread(target=freeing)
        thread.start()
        loop.server.shut_down(loop.tag("end"))
        thread.join(60)
        assert not thread.is_alive()


def test_nobody_else_knows_what_grpcio_has_inside() -> None:
    knows = set()
    for path in Path(meshpki.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.startswith("grpc._") for name in names):
                knows.add(path.name)
    assert knows == {"grpc_core.py"}
