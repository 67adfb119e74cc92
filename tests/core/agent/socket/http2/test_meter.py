"""Frames are counted before anything keeps them, however their bytes are cut; what brings nothing has a budget."""

from __future__ import annotations

from dataclasses import replace

import pytest
from h2.errors import ErrorCodes
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.meter import Budget, Kind, Meter, TooMuchError
from support.http2 import ACK, END_HEADERS, END_STREAM, PREFACE, frame

LIMITS = Limits(message=1000, headers=100, block=300, burst=10, each_second=2.0)

FRAMES = {
    "data": (frame(Kind.DATA, payload=bytes(256)), 0),
    "data of a few bytes": (frame(Kind.DATA, payload=bytes(255)), 1),
    "an end without data": (frame(Kind.DATA, END_STREAM), 0),
    "data that are none": (frame(Kind.DATA), 1),
    "headers": (frame(Kind.HEADERS, END_HEADERS, b"x"), 0),
    "a continuation": (frame(Kind.CONTINUATION, END_HEADERS, b"x"), 1),
    "settings": (frame(Kind.SETTINGS), 1),
    "settings seen": (frame(Kind.SETTINGS, ACK), 0),
    "a ping": (frame(Kind.PING, payload=bytes(8)), 1),
    "a ping's answer": (frame(Kind.PING, ACK, bytes(8)), 0),
    "a reset, which is counted when it is known of what": (frame(Kind.RST_STREAM, payload=bytes(4)), 0),
    "a window": (frame(Kind.WINDOW_UPDATE, payload=bytes(4)), 1),
    "a priority": (frame(Kind.PRIORITY, payload=bytes(5)), 1),
    "what nobody knows": (frame(77, payload=b"x"), 1),
}


@pytest.mark.parametrize(("wire", "spent"), FRAMES.values(), ids=FRAMES)
def test_what_counts(wire: bytes, spent: int) -> None:
    meter = Meter(LIMITS)
    assert meter.look(memoryview(PREFACE)) == 0
    assert [meter.look(memoryview(wire)) for _ in range(3)] == [spent] * 3


@given(st.lists(st.sampled_from(sorted(FRAMES)), max_size=12), st.data())
def test_bytes_may_be_cut_anywhere(names: list[str], data: st.DataObject) -> None:
    wire = PREFACE + b"".join(FRAMES[name][0] for name in names)
    meter, spent = Meter(LIMITS), 0
    while wire:
        step = data.draw(st.integers(1, len(wire)))
        spent += meter.look(memoryview(wire[:step]))
        wire = wire[step:]
    assert spent == sum(FRAMES[name][1] for name in names)


def test_headers_are_as_long_as_all_their_frames_and_are_stopped_by_their_heads() -> None:
    for lengths in ([301], [200, 101], [100, 100, 101], [0] * 3 + [301]):
        meter = Meter(LIMITS)
        meter.look(memoryview(PREFACE))
        *before, last = [
            frame(Kind.CONTINUATION if number else Kind.HEADERS, payload=bytes(length))
            for number, length in enumerate(lengths)
        ]
        for one in before:
            meter.look(memoryview(one))
        with pytest.raises(TooMuchError, match="headers of more than 300 bytes"):
            meter.look(memoryview(last[:9]))


@pytest.mark.parametrize("kind", [*Kind, 77])
def test_no_frame_is_longer_than_we_said_and_that_is_seen_by_its_head(kind: int) -> None:
    meter = Meter(replace(LIMITS, block=100_000))
    meter.look(memoryview(PREFACE + frame(kind, payload=bytes(16_384))))
    with pytest.raises(TooMuchError, match="16384 bytes") as caught:
        meter.look(memoryview((16_385).to_bytes(3) + bytes([kind, 0]) + bytes(4)))
    assert caught.value.code is ErrorCodes.FRAME_SIZE_ERROR


def test_another_call_s_headers_are_counted_anew() -> None:
    meter = Meter(LIMITS)
    meter.look(memoryview(PREFACE))
    for _ in range(5):
        assert meter.look(memoryview(frame(Kind.HEADERS, END_HEADERS, bytes(300)))) == 0


def test_a_budget_is_filled_by_time_and_by_messages_and_never_beyond_its_brim() -> None:
    budget = Budget(LIMITS, 0.0)
    budget.spend(10, 0.0)
    with pytest.raises(TooMuchError):
        budget.spend(1, 0.4)
    budget = Budget(LIMITS, 0.0)
    budget.spend(10, 0.0)
    budget.spend(1, 0.5)
    budget.earn(3)
    budget.spend(3, 0.5)
    budget.earn(1000)
    budget.spend(10, 10_000.0)
    with pytest.raises(TooMuchError):
        budget.spend(1, 10_000.0)
