"""What strangers make of a connection: frames that bring nothing, headers without an end, more calls than allowed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from h2.errors import ErrorCodes
from h2.settings import SettingCodes

from meshpki.agent.socket.http2.connection import Connection
from meshpki.agent.socket.http2.events import Over
from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.messages import framed
from support.http2 import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    frame,
    headers_of,
)
from support.http2_peer import LIMITS, Peer, literal_call

if TYPE_CHECKING:
    from collections.abc import Callable

BEGUN = PREFACE + frame(SETTINGS)


@pytest.fixture
def peer() -> Peer:
    return Peer(LIMITS)


def resets(number: int) -> bytes:
    return literal_call(2 * number + 1) + frame(3, payload=(8).to_bytes(4), stream=2 * number + 1)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "pings": lambda _: frame(PING, payload=bytes(8)),
    "settings": lambda _: frame(SETTINGS),
    "windows": lambda _: frame(8, payload=(1).to_bytes(4)),
    "priorities": lambda _: frame(2, payload=bytes(4) + b"\1", stream=1),
    "what nobody knows": lambda _: frame(99, payload=b"x"),
    "calls that are reset at once": resets,
    "calls that are none": lambda number: frame(HEADERS, END_HEADERS, b"\x83", 2 * number + 1),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_frames_that_bring_nothing_are_forgiven_for_a_while(flood: Callable[[int], bytes]) -> None:
    peer = Peer(LIMITS)
    for number in range(LIMITS.burst - 1):  # the client's settings were one
        assert not any(isinstance(one, Over) for one in peer.hear(flood(number)))
    (over,) = (one for number in range(100, 103) for one in peer.hear(flood(number)) if isinstance(one, Over))
    assert over == Over("ENHANCE_YOUR_CALM more frames that ask for nothing than are forgiven")
    said = ErrorCodes.ENHANCE_YOUR_CALM.to_bytes(4) + b"more frames that ask for nothing than are forgiven"
    assert peer.ours.to_send().endswith(said), "it goes away with a reason"
    assert peer.hear(flood(500)) == []


OF_NONE = {
    "ends": frame(DATA, END_STREAM, stream=1),
    "resets": frame(3, payload=bytes(4), stream=1),
    "headers": literal_call(1),
    "resets of what never was": frame(3, payload=bytes(4), stream=99),
}


@pytest.mark.parametrize("more", OF_NONE.values(), ids=OF_NONE)
def test_frames_of_a_call_that_is_over_are_such_too(peer: Peer, more: bytes) -> None:
    """Some were on their way; h2 answers each of them."""
    peer.ours.finish(peer.begun(), 16)
    assert peer.hear(more * (LIMITS.burst // 2)) == []
    assert peer.hear(more * LIMITS.burst) == [
        Over("ENHANCE_YOUR_CALM more frames that ask for nothing than are forgiven")
    ]


def test_who_is_refused_for_ever_may_say_something_late_each_time(peer: Peer) -> None:
    for _ in range(10 * LIMITS.burst):
        stream = peer.begun()
        peer.ours.finish(stream, 16)
        peer.hear(frame(8, payload=(5).to_bytes(4), stream=stream) + frame(DATA, END_STREAM, bytes(5), stream))
        peer.pump()
    assert not peer.ours.over


def test_who_speaks_byte_by_byte_is_not_heard_for_ever_and_who_says_short_messages_is(peer: Peer) -> None:
    stream = peer.begun()
    for _ in range(10 * LIMITS.burst):
        peer.hear(frame(DATA, 0, framed(b"x"), stream))
        assert peer.ours.read(stream) == b"x"
    for byte in framed(bytes(100)):
        peer.hear(frame(DATA, 0, bytes([byte]), stream))
        peer.ours.read(stream)
    assert peer.ours.over


def test_empty_data_is_such_a_frame_too(peer: Peer) -> None:
    stream = peer.begun()
    for _ in range(2 * LIMITS.burst):
        peer.hear(frame(DATA, stream=stream))
    assert peer.ours.over


def test_and_who_is_served_may_do_all_of_it(peer: Peer) -> None:
    """An Envoy pings and opens windows for each answer; a client that is served and goes has done nothing wrong."""
    for _ in range(10 * LIMITS.burst):
        stream = peer.begun()
        peer.ours.send(stream, memoryview(framed(b"x")))
        peer.client.ping(bytes(8))
        peer.pump()
        peer.client.reset_stream(stream)
        peer.pump()
    assert peer.goaway is None


def test_all_streams_of_a_connection_may_open_their_windows_and_be_reset_at_once() -> None:
    """As a client of grpc.aio does with a thousand of them."""
    limits = Limits(message=1000, headers=4096)
    peer = Peer(limits)
    wire = b"".join(literal_call(2 * number + 1) for number in range(limits.streams))
    window = b"".join(frame(8, payload=(5).to_bytes(4), stream=2 * number + 1) for number in range(limits.streams))
    reset = b"".join(frame(3, payload=(8).to_bytes(4), stream=2 * number + 1) for number in range(limits.streams))
    for said in (wire, window, window, window, reset):
        assert not any(isinstance(one, Over) for one in peer.hear(said))


def test_who_opens_a_window_byte_by_byte_is_not_served_byte_by_byte(peer: Peer) -> None:
    stream = peer.begun()
    rest = memoryview(framed(bytes(100_000)))
    rest = rest[peer.ours.send(stream, rest) :]
    for _ in range(LIMITS.burst):
        peer.hear(frame(8, payload=(1).to_bytes(4)) + frame(8, payload=(1).to_bytes(4), stream=stream))
        rest = rest[peer.ours.send(stream, rest) :]
    assert peer.ours.over


def test_who_opens_it_by_a_kibibyte_is(peer: Peer) -> None:
    peer.acknowledges = False
    stream = peer.begun()
    rest = memoryview(framed(bytes(200_000)))
    rest = rest[peer.ours.send(stream, rest) :]
    while rest:
        peer.hear(frame(8, payload=(1024).to_bytes(4)) + frame(8, payload=(1024).to_bytes(4), stream=stream))
        rest = rest[peer.ours.send(stream, rest) :]
    assert not peer.ours.over


def test_slowly_they_are_forgiven_for_ever(peer: Peer) -> None:
    for number in range(5 * LIMITS.burst):
        peer.now += 1.0
        peer.hear(resets(number))
    assert not peer.ours.over


def test_headers_without_an_end_are_not_kept(peer: Peer) -> None:
    peer.hear(frame(HEADERS, 0, headers_of("/a.B/C"), 1))
    for _ in range(10):
        peer.hear(frame(CONTINUATION, 0, bytes(4000), 1))
    assert peer.ours.over
    peer.pump()
    assert peer.goaway == (ErrorCodes.ENHANCE_YOUR_CALM, b"headers of more than 16384 bytes")


def test_a_frame_is_not_held_before_it_is_known_to_be_too_long(peer: Peer) -> None:
    """Its head allows 16 MiB, and h2 waits for all of them before it says that they are too many."""
    head = (2**24 - 1).to_bytes(3) + bytes([DATA, 0]) + (1).to_bytes(4)
    assert peer.hear(head) == [Over("FRAME_SIZE_ERROR a frame of more than 16384 bytes")]
    peer.pump()
    assert peer.goaway == (ErrorCodes.FRAME_SIZE_ERROR, b"a frame of more than 16384 bytes")


def test_nor_is_what_a_few_bytes_unfold_to() -> None:
    """A long header in the table, which a client may use before it has seen our settings, a thousand times its name
    (CVE-2016-6581).
    """
    ours = Connection(LIMITS, 0.0)
    planted = b"\x40\x01a\x7f\x81\x1e" + b"x" * 4000
    bomb = frame(HEADERS, END_HEADERS, headers_of("/a.B/C") + planted + b"\xbe" * 1000, 1)
    found = ours.receive(memoryview(BEGUN + bomb), 0.0)
    assert [one.why for one in found if isinstance(one, Over)] == ["ENHANCE_YOUR_CALM DenialOfServiceError"]


def test_a_call_beyond_those_that_a_connection_may_have_is_refused_alone(peer: Peer) -> None:
    calls = [peer.begun() for _ in range(LIMITS.streams)]
    peer.client.remote_settings[SettingCodes.MAX_CONCURRENT_STREAMS] = 100
    peer.client.remote_settings.acknowledge()
    one_more = peer.call()
    peer.client.send_data(one_more, framed(b"x"))
    assert peer.pump() == []
    assert peer.reset == {one_more: ErrorCodes.REFUSED_STREAM}
    peer.client.reset_stream(calls[0])
    assert peer.begun(), "and one that comes in the same breath as another one's end is not"


def test_and_who_will_not_be_refused_is_ended(peer: Peer) -> None:
    for number in range(LIMITS.streams + LIMITS.burst + 1):
        peer.hear(literal_call(2 * number + 1))
    assert peer.ours.over


@pytest.mark.parametrize("how", ["answered", "reset", "malformed", "not gRPC"])
def test_of_a_call_that_is_over_nothing_is_held(peer: Peer, how: str) -> None:
    stream = peer.call(*{"malformed": [("a b", "x")], "not gRPC": [("content-type", "x")]}.get(how, []))
    peer.pump()
    if how == "answered":
        peer.ours.finish(stream, 16)
    if how == "reset":
        peer.client.reset_stream(stream)
        peer.pump()
    assert (peer.ours._streams, peer.ours._h2.streams) == ({}, {})
