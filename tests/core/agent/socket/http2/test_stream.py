"""What has come of a call and is not read: never more than a window, whatever is read of it and in whatever pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.socket.http2.messages import MessageRefusedError, framed
from meshpki.agent.socket.http2.stream import Stream

MOST = 1000
WINDOW = 100


def test_small_messages_are_acknowledged_one_by_one_as_they_are_read() -> None:
    stream = Stream()
    stream.add(framed(b"") * 10, 50)
    acknowledged = []
    while stream.take(MOST) is not None:
        acknowledged.append(stream.due())
    assert acknowledged == [5] * 10
    assert (stream.due(), stream.rest()) == (0, 0)


def test_padding_is_acknowledged_too() -> None:
    stream = Stream()
    stream.add(framed(b"abc"), 8 + 92)
    assert stream.due() == 92
    assert stream.take(MOST) == b"abc"
    assert stream.due() == 8


def test_who_waits_for_the_rest_of_a_message_acknowledges_all_of_it_and_no_other() -> None:
    stream = Stream()
    stream.add(framed(bytes(300))[:WINDOW], WINDOW)
    assert stream.due() == 0
    assert stream.take(MOST) is None
    assert stream.due() == WINDOW
    stream.add(framed(bytes(300))[WINDOW:] + framed(bytes(9)), 305 - WINDOW + 14)
    assert stream.take(MOST) == bytes(300)
    assert stream.due() == 305 - WINDOW
    assert stream.rest() == 14


@given(st.lists(st.integers(0, 250), min_size=1, max_size=12), st.lists(st.integers(0, WINDOW), max_size=40))
def test_no_more_is_held_than_a_window_and_the_message_that_somebody_waits_for(
    sizes: list[int], steps: list[int]
) -> None:
    """A step: so many bytes come, or none and somebody reads; in the end all comes and is read."""
    stream, window, read = Stream(), WINDOW, []
    wire = b"".join(framed(bytes(size)) for size in sizes)
    for step in (*steps, *([WINDOW, 0] * 200)):
        if step:
            piece, wire = wire[: min(step, window)], wire[min(step, window) :]
            window -= len(piece)
            stream.add(piece, len(piece))
        else:
            if (message := stream.take(MOST)) is not None:
                read.append(len(message))
            window += stream.due()
        assert len(stream._buffer) <= WINDOW + max(sizes) + 5
        assert window + stream.rest() == WINDOW
    assert read == sizes


@given(st.integers(0, 500), st.lists(st.integers(1, 60), max_size=30))
def test_what_is_passed_over_is_gone(size: int, steps: list[int]) -> None:
    stream, wire, done = Stream(), framed(bytes(size)) + framed(b"next"), False
    for step in steps:
        piece, wire = wire[:step], wire[step:]
        stream.add(piece, len(piece))
        if done:
            continue
        done = stream.skip()
        assert done == (len(wire) <= 9)
        assert len(stream._buffer) <= (9 if done else 4)
        stream.due()
        assert stream.rest() == len(stream._buffer)


def test_a_message_that_is_cut_by_the_end_is_none() -> None:
    stream = Stream()
    stream.add(b"\0", 1)
    assert stream.take(MOST) is None
    stream.ended = True
    with pytest.raises(MessageRefusedError, match="inside of a message"):
        stream.take(MOST)
    assert stream.skip()
