"""Messages and their prefix: sizes before bytes, one compression, and nothing inflated beyond the bound."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.socket.http2.messages import MessageRefusedError, Refusal, framed, size_of, take

MOST = 1000


def compressed(data: bytes) -> bytes:
    return b"\1" + len(data).to_bytes(4) + data


@given(st.lists(st.binary(max_size=50), max_size=6), st.data())
def test_messages_come_out_as_they_went_in_however_their_bytes_are_cut(
    messages: list[bytes], data: st.DataObject
) -> None:
    wire = b"".join(framed(message) for message in messages)
    found, buffer = [], bytearray()
    while wire:
        step = data.draw(st.integers(1, len(wire)))
        buffer += wire[:step]
        wire = wire[step:]
        while (message := take(buffer, MOST, "identity")) is not None:
            found.append(message)
    assert (found, bytes(buffer)) == (messages, b"")


def test_a_size_is_judged_before_the_bytes_are_there() -> None:
    assert take(bytearray(framed(bytes(MOST))[:10]), MOST, "identity") is None
    with pytest.raises(MessageRefusedError, match=f"{MOST + 1} vs. {MOST}") as caught:
        take(bytearray(framed(bytes(MOST + 1))[:5]), MOST, "identity")
    assert caught.value.why is Refusal.TOO_LARGE


@given(st.binary(max_size=MOST))
def test_gzip_is_known(data: bytes) -> None:
    buffer = bytearray(compressed(gzip.compress(data)) + b"rest")
    assert take(buffer, MOST, "gzip") == data
    assert buffer == b"rest"


def test_it_is_inflated_to_the_bound_and_no_further() -> None:
    assert take(bytearray(compressed(gzip.compress(bytes(MOST)))), MOST, "gzip") == bytes(MOST)
    bomb = bytearray(compressed(gzip.compress(bytes(10_000_000))))
    tracemalloc.start()
    try:
        with pytest.raises(MessageRefusedError) as caught:
            take(bomb, len(bomb), "gzip")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.why is Refusal.TOO_LARGE


BROKEN = {
    "no encoding said": (compressed(gzip.compress(b"x")), "identity", Refusal.ENCODING),
    "an encoding of others": (compressed(b"x"), "snappy", Refusal.ENCODING),
    "not gzip": (compressed(zlib.compress(b"x")), "gzip", Refusal.BROKEN),
    "cut short": (compressed(gzip.compress(b"x" * 50)[:-9]), "gzip", Refusal.BROKEN),
    "nothing": (compressed(b""), "gzip", Refusal.BROKEN),
    "another flag": (b"\2" + bytes(4), "gzip", Refusal.BROKEN),
}


@pytest.mark.parametrize(("wire", "encoding", "why"), BROKEN.values(), ids=BROKEN)
def test_what_cannot_be_read(wire: bytes, encoding: str, why: Refusal) -> None:
    with pytest.raises(MessageRefusedError) as caught:
        take(bytearray(wire), MOST, encoding)
    assert caught.value.why is why


@given(st.binary(max_size=40), st.sampled_from(["identity", "gzip", "x"]))
def test_any_bytes_are_a_message_or_not_all_of_one_or_refused(data: bytes, encoding: str) -> None:
    buffer = bytearray(data)
    try:
        message = take(buffer, MOST, encoding)
    except MessageRefusedError:
        return
    assert message is None or len(buffer) < len(data)


def test_how_long_a_message_is_with_its_prefix() -> None:
    assert (size_of(bytearray(bytes(4))), size_of(bytearray(framed(b"abc")))) == (-1, 8)
