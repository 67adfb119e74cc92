"""gRPC on one connection, without a socket: h2's own client on the other side, or bytes that no client would send."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from h2.errors import ErrorCodes
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.agent.socket.http2.connection import Connection
from meshpki.agent.socket.http2.events import CallBegun, CallDropped, CallMoved, Greeted, Leaving, Over, RoomMade
from meshpki.agent.socket.http2.limits import STREAM_WINDOW
from meshpki.agent.socket.http2.messages import MessageRefusedError, framed
from support.fuzz_targets import http2
from support.http2 import (
    DATA,
    END_STREAM,
    GOAWAY,
    PREFACE,
    SETTINGS,
    frame,
)
from support.http2_peer import CALL, LIMITS, Peer, literal_call

if TYPE_CHECKING:
    from meshpki.agent.socket.http2.events import Event

UNREAD = LIMITS.unread


@pytest.fixture
def peer() -> Peer:
    return Peer(LIMITS)


def messages_of(peer: Peer, stream: int) -> list[bytes]:
    found = []
    while (message := peer.ours.read(stream)) is not None:
        found.append(message)
    return found


def test_a_client_is_greeted_once_and_a_call_goes_both_ways(peer: Peer) -> None:
    stream = peer.call(("x", "y"))
    peer.client.send_data(stream, framed(b"ask"))
    found = peer.pump()
    assert [type(one) for one in found] == [CallBegun, CallMoved]
    assert isinstance(found[0], CallBegun)
    assert found[0].request.metadata == (("x", "y"),)
    assert (messages_of(peer, stream), peer.ours.is_ended(stream)) == ([b"ask"], False)
    answer = framed(b"answer")
    assert peer.ours.send(stream, memoryview(answer)) == len(answer)
    peer.client.end_stream(stream)
    assert peer.pump()[-1] == CallMoved(stream)
    assert peer.ours.is_ended(stream)
    peer.ours.finish(stream, 0)
    peer.pump()
    assert peer.data[stream] == answer
    assert (peer.answers[stream][":status"], peer.answers[stream]["grpc-status"]) == ("200", "0")
    assert (peer.ended, peer.reset) == ({stream}, {})


def test_the_first_settings_are_the_greeting() -> None:
    ours = Connection(LIMITS, 0.0)
    assert ours.receive(memoryview(PREFACE), 0.0) == []
    assert ours.receive(memoryview(frame(SETTINGS)), 0.0) == [Greeted(), RoomMade()]
    assert ours.receive(memoryview(frame(SETTINGS)), 0.0) == [RoomMade()]


def test_a_refusal_is_one_answer_and_the_rest_of_the_request_is_not_wanted(peer: Peer) -> None:
    stream = peer.begun()
    peer.ours.finish(stream, 16, "not 100% you")
    peer.pump()
    said = peer.answers[stream]
    assert (said[":status"], said["grpc-status"], said["grpc-message"]) == ("200", "16", "not 100%25 you")
    assert stream in peer.ended
    assert peer.reset == {stream: ErrorCodes.NO_ERROR}
    assert peer.begun() == stream + 2, "the connection lives on"


HTTP = {
    "another type": ({**dict(CALL), "content-type": "application/json"}, {":status": "415", "content-length": "0"}),
    "another method": ({**dict(CALL), ":method": "GET"}, {":status": "405", "content-length": "0"}),
}


@pytest.mark.parametrize(("headers", "answer"), HTTP.values(), ids=HTTP)
def test_what_is_not_grpc_hears_so_in_http(peer: Peer, headers: dict[str, str], answer: dict[str, str]) -> None:
    stream = peer.call(headers=headers.items(), ends=True)
    assert peer.pump() == []
    assert peer.answers[stream] == answer


@pytest.mark.parametrize(
    ("header", "status"), [(("grpc-timeout", "soon"), "3"), (("x-bin", "!"), "3"), (("x", "y" * 5000), "8")]
)
def test_headers_that_cannot_be_meant(peer: Peer, header: tuple[str, str], status: str) -> None:
    stream = peer.call(header)
    peer.client.send_data(stream, bytes(100))
    assert not any(isinstance(one, CallBegun) for one in peer.pump())
    assert peer.answers[stream]["grpc-status"] == status
    assert peer.begun()


def test_headers_that_http2_does_not_allow_end_the_call_alone(peer: Peer) -> None:
    stream = peer.call(("a b", "x"))
    assert not any(isinstance(one, CallBegun) for one in peer.pump())
    assert peer.reset == {stream: ErrorCodes.PROTOCOL_ERROR}
    assert peer.begun()


def test_who_resets_is_dropped_and_what_we_do_then_is_nothing(peer: Peer) -> None:
    stream = peer.begun()
    peer.client.send_data(stream, framed(b"ask"))
    peer.client.reset_stream(stream, ErrorCodes.CANCEL)
    assert peer.pump()[-1] == CallDropped(stream)
    assert (peer.ours.read(stream), peer.ours.is_ended(stream), peer.ours.skip(stream)) == (None, True, True)
    assert peer.ours.send(stream, memoryview(b"late")) == 4
    peer.ours.finish(stream, 0)
    assert peer.ours.to_send() == b""


def test_a_call_that_is_reset_in_the_same_breath_was_none(peer: Peer) -> None:
    for more in ((), (("grpc-timeout", "soon"),), (("content-type", "x"),)):
        stream = peer.call(*more)
        peer.client.send_data(stream, bytes(9))
        peer.client.reset_stream(stream, ErrorCodes.CANCEL)
        assert peer.pump() == [CallDropped(stream)]
    assert peer.begun()


def test_a_client_that_leaves_in_peace_is_still_answered(peer: Peer) -> None:
    """As grpc-java does in `shutdown`: it says so, and waits for its calls."""
    stream = peer.begun()
    assert peer.hear(frame(GOAWAY, payload=bytes(8))) == [Leaving()]
    assert peer.hear(frame(DATA, END_STREAM, framed(b"last"), stream)) == [CallMoved(stream), CallMoved(stream)]
    assert peer.ours.read(stream) == b"last"
    assert peer.ours.send(stream, memoryview(framed(b"x"))) == 6
    peer.ours.finish(stream, 0)
    peer.pump()
    assert (peer.data[stream], peer.answers[stream]["grpc-status"]) == (framed(b"x"), "0")


def test_a_client_that_finds_fault_ends_it_for_both(peer: Peer) -> None:
    stream = peer.call()
    peer.client.send_data(stream, framed(b"x"))
    peer.client.close_connection(ErrorCodes.PROTOCOL_ERROR)
    assert peer.hear(peer.client.data_to_send()) == [Over("")]
    assert peer.ours.over
    peer.ours.finish(stream, 0)
    assert peer.hear(b"anything") == []


def test_draining_takes_no_new_call_and_lets_the_others_go_on(peer: Peer) -> None:
    stream = peer.begun()
    peer.ours.drain()
    back = peer.ours.to_send()
    assert frame(7, payload=stream.to_bytes(4) + bytes(4)) in back
    assert peer.hear(literal_call(stream + 2)) == [], "its client takes it for one that was not heard"
    assert frame(3, payload=(7).to_bytes(4), stream=stream + 2) in peer.ours.to_send()
    assert peer.ours.send(stream, memoryview(framed(b"x"))) == 6
    peer.ours.finish(stream, 0)
    assert b"grpc-status" not in back
    assert len(peer.ours.to_send()) > 6


@pytest.mark.parametrize("size", [LIMITS.message, LIMITS.message + 1])
def test_a_message_is_as_large_as_it_may_be(peer: Peer, size: int) -> None:
    stream = peer.begun()
    wire, taken = framed(bytes(size)), []
    while wire:
        step = min(peer.client.local_flow_control_window(stream), peer.client.max_outbound_frame_size, len(wire))
        assert step, "it goes on as long as somebody waits for it"
        peer.client.send_data(stream, wire[:step])
        wire = wire[step:]
        peer.pump()
        if size > LIMITS.message:
            with pytest.raises(MessageRefusedError, match=f"{size} vs. {LIMITS.message}"):
                peer.ours.read(stream)
            return
        taken += messages_of(peer, stream)
        peer.pump()
    assert taken == [bytes(size)]


def test_a_call_that_ends_inside_of_a_message(peer: Peer) -> None:
    stream = peer.begun()
    peer.client.send_data(stream, framed(b"whole") + framed(b"cut")[:-1], end_stream=True)
    peer.pump()
    assert peer.ours.read(stream) == b"whole"
    with pytest.raises(MessageRefusedError, match="inside of a message"):
        peer.ours.read(stream)


def fill(peer: Peer, stream: int) -> int:
    """Send as much as the windows allow, as a message that never ends; say how much that was."""
    sent = 0
    while (room := min(peer.client.local_flow_control_window(stream), 16_384)) > 0:
        piece = framed(bytes(LIMITS.message))[:room] if not sent else bytes(room)
        peer.client.send_data(stream, piece)
        peer.pump()
        sent += room
    return sent


def test_what_nobody_reads_is_a_window_of_a_call_and_four_of_a_connection(peer: Peer) -> None:
    calls = [peer.begun() for _ in range(6)]
    assert [fill(peer, stream) for stream in calls[:4]] == [STREAM_WINDOW] * 4
    assert fill(peer, calls[4]) == 0, "the connection's window is full as well"
    assert peer.ours.read(calls[0]) is None
    peer.pump()
    assert fill(peer, calls[4]) > 0, "somebody waits for the first: there is room again"


def test_whoever_is_over_leaves_no_hole_in_the_connection_s_window(peer: Peer) -> None:
    for end in (
        lambda stream: peer.ours.finish(stream, 16),
        peer.client.reset_stream,
    ):
        for _ in range(20):
            stream = peer.begun()
            assert fill(peer, stream) == STREAM_WINDOW
            end(stream)
            peer.now += 10
            peer.pump()
    assert peer.client.outbound_flow_control_window > UNREAD / 2


def test_what_comes_for_a_call_that_is_over_is_given_back(peer: Peer) -> None:
    for _ in range(20):
        stream = peer.begun()
        peer.ours.finish(stream, 16)
        while peer.client.local_flow_control_window(stream) > 16_384:
            peer.client.send_data(stream, bytes(16_384))  # it has not heard of it yet
        peer.now += 10
        peer.pump()
    assert peer.client.outbound_flow_control_window > UNREAD / 2
    assert peer.goaway is None


def test_nor_does_what_came_with_a_call_that_was_refused_by_its_headers(peer: Peer) -> None:
    for _ in range(20):
        stream = peer.call(("grpc-timeout", "soon"))
        peer.client.send_data(stream, bytes(16_384))
        peer.pump()
    assert peer.client.outbound_flow_control_window > UNREAD / 2


def test_of_calls_that_are_over_few_are_remembered(peer: Peer) -> None:
    for _ in range(200):
        peer.ours.finish(peer.begun(), 16)
        peer.pump()
    assert len(peer.ours._h2._closed_streams) <= 128


def test_a_message_passed_over_is_not_held(peer: Peer) -> None:
    stream = peer.begun()
    assert not peer.ours.skip(stream)
    wire = framed(bytes(LIMITS.message * 3)) + framed(b"next")
    while wire:
        step = min(peer.client.local_flow_control_window(stream), 16_384, len(wire))
        assert step
        peer.client.send_data(stream, wire[:step])
        wire = wire[step:]
        peer.pump()
        done = peer.ours.skip(stream)
        peer.pump()
        assert done == (len(wire) < 9)


def test_who_is_passed_over_may_say_nothing_more(peer: Peer) -> None:
    stream = peer.begun()
    peer.client.end_stream(stream)
    peer.pump()
    assert peer.ours.skip(stream)


@settings(max_examples=60)
@given(st.data())
def test_windows_hold_whatever_is_sent_and_read(data: st.DataObject) -> None:
    """No more than a window is unread, all messages arrive, and in the end the windows are open."""
    peer = Peer(replace(LIMITS, burst=1000))
    calls = {peer.begun(): bytearray() for _ in range(3)}
    sent: dict[int, list[bytes]] = {stream: [] for stream in calls}
    read: dict[int, list[bytes]] = {stream: [] for stream in calls}
    for _ in range(data.draw(st.integers(5, 30))):
        stream = data.draw(st.sampled_from(list(calls)))
        if data.draw(st.booleans()):
            if not calls[stream]:
                message = bytes(data.draw(st.sampled_from([0, 1, 5000, 30_000, 70_000])))
                sent[stream].append(message)
                calls[stream] += framed(message)
            send(peer, stream, calls[stream], data.draw(st.integers(1, 16_384)))
        elif (found := peer.ours.read(stream)) is not None:
            read[stream].append(found)
        peer.pump()
    while any(calls.values()):
        for stream, rest in calls.items():
            send(peer, stream, rest, 16_384)
            peer.pump()
            read[stream] += messages_of(peer, stream)
            peer.pump()
    for stream in calls:
        read[stream] += messages_of(peer, stream)
    peer.pump()
    assert read == sent
    assert all(peer.client.local_flow_control_window(stream) >= STREAM_WINDOW // 2 for stream in calls)
    assert peer.goaway is None


def send(peer: Peer, stream: int, rest: bytearray, most: int) -> None:
    step = min(peer.client.local_flow_control_window(stream), most, len(rest))
    if step:
        peer.client.send_data(stream, bytes(rest[:step]))
        del rest[:step]


@given(st.integers(0, 40_000), st.integers(1, 20_000))
@settings(max_examples=30, deadline=None)
def test_nothing_is_sent_beyond_the_client_s_windows(window: int, size: int) -> None:
    peer = Peer(LIMITS)
    peer.acknowledges = False
    peer.client.update_settings({4: window})
    peer.pump()
    stream = peer.begun()
    wire = framed(bytes(size))
    assert peer.ours.send(stream, memoryview(wire)) == min(len(wire), window)
    assert peer.pump() == []
    assert len(peer.data[stream]) == min(len(wire), window)
    if len(wire) > window:
        peer.client.increment_flow_control_window(len(wire), stream)
        assert RoomMade() in peer.pump()
        assert peer.ours.send(stream, memoryview(wire)[window:]) == len(wire) - window
        peer.pump()
    assert peer.data[stream] == wire


def test_a_client_that_speaks_something_else() -> None:
    for said in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(30)):
        assert Connection(LIMITS, 0.0).receive(memoryview(said), 0.0) == [Over("PROTOCOL_ERROR ProtocolError")]


BEGUN = PREFACE + frame(SETTINGS)


def conversation() -> bytes:
    """What a client says in a few calls, with messages, pings, an end and a reset."""
    peer = Peer(replace(LIMITS, burst=1000))
    client = peer.client
    for number in range(3):
        stream = peer.call(("x", "y" * 100), ("grpc-encoding", "identity"))
        client.send_data(stream, framed(b"m" * 50) + framed(b""))
        client.ping(bytes(8))
        if number == 1:
            client.reset_stream(stream)
        if number == 2:
            client.send_data(stream, framed(b"last"), end_stream=True)
    return BEGUN + client.data_to_send()


WHOLE = conversation()


def told(pieces: list[bytes]) -> tuple[list[object], dict[int, list[bytes]]]:
    """What it comes to: calls and drops in their order, and the messages of each."""
    ours, story = Connection(replace(LIMITS, burst=1000), 0.0), []
    calls: dict[int, list[bytes]] = {}
    dropped: set[int] = set()
    for piece in pieces:
        found: list[Event] = ours.receive(memoryview(piece), 0.0)
        for event in found:
            if isinstance(event, CallBegun):
                calls[event.stream] = []
                story.append(event)
            elif isinstance(event, CallDropped):
                dropped.add(event.stream)
            else:
                assert not isinstance(event, Over)
        for stream, messages in calls.items():
            while (message := ours.read(stream)) is not None:
                messages.append(message)
    kept = [one for one in story if one.stream not in dropped]
    return [*kept, *sorted(dropped)], {stream: read for stream, read in calls.items() if stream not in dropped}


@given(st.data())
@settings(deadline=None)
def test_bytes_may_be_cut_anywhere(data: st.DataObject) -> None:
    rest, pieces = WHOLE, []
    while rest:
        step = data.draw(st.integers(1, max(len(rest) // 2, 1)))
        pieces.append(rest[:step])
        rest = rest[step:]
    assert told(pieces) == told([WHOLE])
    assert told([WHOLE])[1][5] == [b"m" * 50, b"", b"last"]


@given(st.data())
@settings(deadline=None, max_examples=300)
def test_any_bytes_do_no_harm(data: st.DataObject) -> None:
    """They end the connection or they do not; nothing is raised, and what comes after the end is not looked at."""
    wire = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(0, 8))):
        at = data.draw(st.integers(len(BEGUN), len(wire) - 1))
        change = data.draw(st.binary(max_size=12))
        wire[at : at + data.draw(st.integers(0, 12))] = change
    http2(b"\x60" + bytes(wire[len(BEGUN) :]))


KINDS = st.tuples(st.integers(0, 11), st.integers(0, 255), st.binary(max_size=60), st.integers(0, 9))


@given(st.lists(KINDS, max_size=20))
@settings(deadline=None, max_examples=300)
def test_any_frames_do_no_harm(frames: list[tuple[int, int, bytes, int]]) -> None:
    wire = b"".join(frame(*one) for one in frames)
    http2(b"\x60" + wire)
    http2(b"\x60" + literal_call(1) + literal_call(3) + wire)
