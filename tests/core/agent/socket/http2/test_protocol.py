"""The shell of a connection, without a socket: a transport that records, and handlers of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from h2.errors import ErrorCodes

from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.messages import framed
from meshpki.agent.socket.http2.protocol import ClientConnection
from support.http2 import DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, headers_of
from support.http2_peer import CALL, Peer

if TYPE_CHECKING:
    from meshpki.agent.socket.http2.call import Http2Call
    from meshpki.agent.socket.http2.headers import Request

LIMITS = Limits(message=200_000, headers=4096, greeting=0.4, idle=0.4)
LATER = Limits(message=200_000, headers=4096)
Answer = tuple[int, str]
Handler = Callable[["Http2Call", "Request"], Awaitable[Answer]]


class Transport(asyncio.Transport):
    """Records what is written; says whether it is read from."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.reading = True
        self.closing = False
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.closing
        self.written += data

    def is_reading(self) -> bool:
        return self.reading and not self.closing

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Stage:
    """A server of one handler, and one connection to it. `client` is h2's own."""

    def __init__(self, handler: Handler, limits: Limits = LATER) -> None:
        self.limits = limits
        self.buffer = memoryview(bytearray(64 * 1024))
        self.handler = handler
        self.left = 0
        self.broken: list[str] = []
        self.over: list[str] = []
        self.transport = Transport()
        self.connection = ClientConnection(self)
        self.connection.connection_made(self.transport)
        self.peer = Peer(limits)  # for its client
        self.client = self.peer.client

    async def answer(self, call: Http2Call, request: Request) -> Answer:
        try:
            answer = await self.handler(call, request)
        except asyncio.CancelledError:
            self.over.append("cancelled")
            raise
        self.over.append("done")
        return answer

    def ended(self, why: str) -> None:
        self.broken.append(why)

    def gone(self, connection: ClientConnection) -> None:
        self.left += 1

    def hear(self, data: bytes) -> None:
        self.buffer[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def greet(self) -> None:
        self.hear(PREFACE + frame(SETTINGS))

    def call(self, stream: int = 1, *messages: bytes) -> None:
        data = b"".join(frame(DATA, payload=framed(message), stream=stream) for message in messages)
        self.hear(frame(HEADERS, END_HEADERS, headers_of("/a.B/C"), stream) + data)

    def take(self) -> bytes:
        """What was written since the last time."""
        written = bytes(self.transport.written)
        self.transport.written.clear()
        return written


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await scene()

    asyncio.run(asyncio.wait_for(main(), 60))


async def forever(call: Http2Call, request: Request) -> Answer:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


async def echo(call: Http2Call, request: Request) -> Answer:
    while (message := await call.read()) is not None:
        await call.write(message)
    return 0, ""


def has(written: bytes, kind: int) -> bool:
    """Whether there is a frame of this kind in what was written."""
    at = 0
    while at < len(written):
        if written[at + 3] == kind:
            return True
        at += 9 + int.from_bytes(written[at : at + 3])
    return False


def test_a_message_goes_there_and_back() -> None:
    async def scene() -> None:
        stage = Stage(echo)
        stage.greet()
        stage.take()
        stage.call(1, b"one", b"two")
        await turns()
        written = stage.take()
        assert framed(b"one") in written
        assert framed(b"two") in written
        stage.hear(frame(DATA, payload=framed(b"three"), stream=1))
        await turns()
        assert framed(b"three") in stage.take()
        stage.hear(frame(DATA, 1, stream=1))
        await turns()
        assert stage.over == ["done"]
        assert has(stage.take(), HEADERS), "the trailers"

    run(scene)


@pytest.mark.parametrize("asked", [True, False])
def test_who_leaves_in_peace_is_answered_and_then_nobody_is_there(asked: bool) -> None:
    async def scene() -> None:
        stage = Stage(echo)
        stage.greet()
        if asked:
            stage.call()
            await turns()
            stage.hear(frame(7, payload=bytes(8)))
            assert not stage.transport.closing
            stage.take()
            stage.hear(frame(DATA, 1, framed(b"last"), 1))
            await turns()
            assert framed(b"last") in stage.take()
        else:
            stage.hear(frame(7, payload=bytes(8)))
        assert stage.transport.closing

    run(scene)


RESET = frame(3, payload=(8).to_bytes(4), stream=1)


@pytest.mark.parametrize("begun", [True, False], ids=["at work", "before its first step"])
@pytest.mark.parametrize("how", ["reset", "goodbye", "hangs up", "breaks the rules"])
def test_who_leaves_ends_its_handler(begun: bool, how: str) -> None:
    async def scene() -> None:
        stage = Stage(forever)
        stage.greet()
        stage.call()
        if begun:
            await turns()
        match how:
            case "reset":
                stage.hear(RESET)
            case "goodbye":
                stage.hear(frame(7, payload=(2).to_bytes(8)))
            case "hangs up":
                stage.connection.connection_lost(None)
            case _:
                stage.hear(frame(DATA, payload=b"", stream=99))
        await turns()
        assert stage.over == (["cancelled"] if begun else [])
        assert stage.transport.closing == (how in {"goodbye", "breaks the rules"})
        assert len(stage.broken) == (how == "breaks the rules")
        assert stage.left == (how == "hangs up")
        assert how != "hangs up" or not vars(stage.connection.core._h2), "nothing of it is held"
        if how == "reset":
            stage.call(3)
            stage.connection.drain()
            await turns()
            assert not stage.transport.closing, "there is another one"
            stage.hear(frame(3, payload=(8).to_bytes(4), stream=3))
            await turns()
            assert stage.transport.closing, "the first is not waited for"

    run(scene)


def test_who_is_in_a_hurry_is_told_that_it_took_too_long() -> None:
    async def scene() -> None:
        stage = Stage(forever)
        stage.greet()
        hurry = b"\x00\x0cgrpc-timeout\x0320m"
        stage.hear(frame(HEADERS, END_HEADERS, headers_of("/a.B/C") + hurry, 1))
        while not stage.over:
            await asyncio.sleep(0.01)
        await turns()
        assert stage.over == ["cancelled"]
        peer_sees(stage, {"grpc-status": "4"})

    run(scene)


def test_a_fault_of_who_answers_is_told_and_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    async def faulty(call: Http2Call, request: Request) -> Answer:
        raise ValueError("of ours")

    async def scene() -> None:
        stage = Stage(faulty, LIMITS)
        stage.greet()
        stage.call()
        await turns()
        peer_sees(stage, {"grpc-status": "13"})
        while not stage.transport.closing:
            await asyncio.sleep(0.01)

    run(scene)
    assert [one.getMessage() for one in caplog.records] == ["a fault of the agent ended a call"]


def test_who_was_answered_in_time_leaves_no_timer() -> None:
    calls: list[Http2Call] = []

    async def at_once(call: Http2Call, request: Request) -> Answer:
        calls.append(call)
        return 0, ""

    async def scene() -> None:
        stage = Stage(at_once)
        stage.greet()
        stage.hear(frame(HEADERS, END_HEADERS, headers_of("/a.B/C") + b"\x00\x0cgrpc-timeout\x029H", 1))
        await turns()
        assert [call.deadline is not None and call.deadline.cancelled() for call in calls] == [True]

    run(scene)


def peer_sees(stage: Stage, answer: dict[str, str]) -> None:
    """What h2's own client makes of what was written to it."""
    peer = stage.peer
    if not peer.client.open_outbound_streams:
        peer.call(headers=CALL)
        peer.client.data_to_send()
    for event in peer.client.receive_data(stage.take()):
        peer._heard(event)
    assert answer.items() <= peer.answers[1].items()


def test_who_does_not_read_is_not_read() -> None:
    async def scene() -> None:
        stage = Stage(echo)
        stage.greet()
        stage.call(1, b"one")
        await turns()
        assert framed(b"one") in stage.take()
        stage.connection.pause_writing()
        assert not stage.transport.is_reading()
        stage.hear(frame(DATA, payload=framed(b"two"), stream=1))
        await turns()
        assert framed(b"two") not in stage.take()
        stage.connection.resume_writing()
        await turns()
        assert stage.transport.is_reading()
        assert framed(b"two") in stage.take()

    run(scene)


def test_an_answer_waits_for_the_client_s_window() -> None:
    large = bytes(150_000)

    async def long(call: Http2Call, request: Request) -> Answer:
        await call.write(large)
        return 0, ""

    async def scene() -> None:
        stage = Stage(long)
        stage.greet()
        stage.call()
        await turns()
        sent = len(stage.take())
        assert 65_535 < sent < 66_000
        assert stage.over == []
        for _ in range(2):
            stage.hear(frame(8, payload=(50_000).to_bytes(4)) + frame(8, payload=(50_000).to_bytes(4), stream=1))
            await turns()
            sent += len(stage.take())
        assert len(large) < sent < len(large) + 1000
        assert stage.over == ["done"]

    run(scene)


def test_who_waits_for_a_window_is_ended_with_its_client() -> None:
    async def scene() -> None:
        stage = Stage(lambda call, _: write(call))
        stage.greet()
        stage.call()
        await turns()
        stage.connection.connection_lost(None)
        await turns()
        assert stage.over == ["cancelled"]

    async def write(call: Http2Call) -> Answer:
        await call.write(bytes(150_000))
        return 0, ""

    run(scene)


def test_who_is_reset_while_it_waits_for_a_window_leaves_nothing() -> None:
    """Who opens no window could have us keep something of each of its calls, for as long as its connection."""

    async def write(call: Http2Call, request: Request) -> Answer:
        await call.write(b"x")
        return 0, ""

    async def scene() -> None:
        stage = Stage(write)
        stage.hear(PREFACE + frame(SETTINGS, payload=b"\0\4" + bytes(4)))
        for stream in range(1, 41, 2):
            stage.call(stream)
            await turns()
            assert len(stage.connection._room or ()) == 1
            stage.hear(frame(3, payload=(8).to_bytes(4), stream=stream))
            await turns()
            assert not stage.connection._room

    run(scene)


def test_draining_says_so_and_closes_after_the_last_call() -> None:
    async def scene() -> None:
        stage = Stage(echo)
        stage.greet()
        stage.call()
        await turns()
        stage.take()
        stage.connection.drain()
        assert has(stage.take(), 7)
        assert not stage.transport.closing
        stage.hear(frame(DATA, 1, payload=framed(b"x"), stream=1))
        await turns()
        assert framed(b"x") in stage.take()
        assert stage.transport.closing

    run(scene)


def test_without_a_call_it_closes_at_once() -> None:
    async def scene() -> None:
        for greeted in (True, False):
            stage = Stage(echo)
            if greeted:
                stage.greet()
            stage.connection.drain()
            assert stage.transport.closing

    run(scene)


@pytest.mark.parametrize("greeted", [True, False])
def test_who_asks_nothing_is_told_to_go_and_not_waited_for(greeted: bool) -> None:
    async def scene() -> None:
        stage = Stage(echo, LIMITS)
        if greeted:
            stage.greet()
        stage.take()
        while not stage.transport.closing:
            await asyncio.sleep(0.01)
        goaway = stage.take()
        assert has(goaway, 7)
        assert int.from_bytes(goaway[-4:]) == ErrorCodes.NO_ERROR
        assert stage.broken == []
        while not stage.transport.aborted:  # it does not read
            await asyncio.sleep(0.01)

    run(scene)


@pytest.mark.parametrize("calls", [0, 1])
def test_who_shuts_down_its_side_and_does_not_read_is_not_waited_for(calls: int) -> None:
    """The transport would wait for ever to send what it still has, and no timer of ours looks at one that closes."""

    async def scene() -> None:
        stage = Stage(forever, LIMITS)
        stage.greet()
        if calls:
            stage.call()
        stage.connection.eof_received()
        assert stage.transport.closing
        while not stage.transport.aborted:
            await asyncio.sleep(0.01)

    run(scene)


def test_settings_that_come_after_a_call_end_none() -> None:
    async def scene() -> None:
        stage = Stage(echo, LIMITS)
        stage.hear(PREFACE + frame(HEADERS, END_HEADERS, headers_of("/a.B/C"), 1))
        stage.hear(frame(SETTINGS))
        await asyncio.sleep(3 * LIMITS.idle)
        assert not stage.transport.closing

    run(scene)


def test_who_has_a_call_may_say_nothing_for_ever_and_then_as_long_as_anybody() -> None:
    async def scene() -> None:
        stage = Stage(echo, LIMITS)
        stage.greet()
        stage.call()
        await asyncio.sleep(3 * LIMITS.idle)
        assert not stage.transport.closing
        stage.hear(frame(DATA, 1, stream=1))
        await turns()
        assert not stage.transport.closing
        while not stage.transport.closing:
            await asyncio.sleep(0.01)

    run(scene)


def test_a_message_on_its_way_is_heard_out_and_not_for_ever() -> None:
    async def refuse(call: Http2Call, request: Request) -> Answer:
        await call.hear_out(0.4)
        return 16, "no"

    async def scene() -> None:
        for said in (True, False):
            stage = Stage(refuse)
            stage.greet()
            stage.call()
            await turns()
            assert stage.over == []
            if said:
                stage.hear(frame(DATA, payload=framed(bytes(100))[:50], stream=1))
                await turns()
                assert stage.over == []
                stage.hear(frame(DATA, payload=framed(bytes(100))[50:], stream=1))
                await turns()
                assert stage.over == ["done"]
            while not stage.over:
                await asyncio.sleep(0.01)

    run(scene)
