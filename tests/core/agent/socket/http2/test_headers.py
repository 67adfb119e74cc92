"""A call's headers: what is one, what is none, and what of them its handler sees; the headers that we answer with."""

from __future__ import annotations

import base64
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.agent.socket.http2.headers import (
    MAX_WORDS,
    OPENING,
    BadHeadersError,
    MalformedError,
    NotGrpcError,
    http_only,
    read_request,
    size_of,
    trailers,
)

MOST = 32 * 1024
Header = tuple[bytes, bytes]
SPECIAL: tuple[Header, ...] = ((b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/a.B/C"))
GRPC: Header = (b"content-type", b"application/grpc")


def call(*more: Header, special: tuple[Header, ...] = SPECIAL, kind: Header = GRPC) -> list[Header]:
    return [*special, kind, (b"te", b"trailers"), *more]


def test_what_a_handler_sees() -> None:
    bearer, user = (b"authorization", b" Bearer x "), (b"user-agent", b"grpc")
    encoding, timeout = (b"grpc-encoding", b"gzip"), (b"grpc-timeout", b"20S")
    request = read_request(call(bearer, user, encoding, timeout, special=(*SPECIAL, (b":authority", b"x"))), MOST)
    assert request.path == "/a.B/C"
    assert request.metadata == (("authorization", "Bearer x"), ("user-agent", "grpc"))
    assert (request.encoding, request.timeout) == ("gzip", 20.0)


@pytest.mark.parametrize(
    "written", [b"AAEC", b"AAE=", b"AAE", b"AA==", b"AA", b"", b" AAEC "], ids=lambda value: value.decode() or "empty"
)
def test_bytes_are_base64_with_or_without_padding(written: bytes) -> None:
    bare = written.strip()
    wanted = base64.b64decode(bare + b"=" * (-len(bare) % 4))
    assert read_request(call((b"x-bin", written)), MOST).metadata == (("x-bin", wanted),)


def test_several_of_them_may_stand_in_one_header() -> None:
    found = read_request(call((b"x-bin", b"AAE=,AAE, AQ"), (b"x-bin", b"Ag")), MOST).metadata
    assert found == (("x-bin", b"\0\1"), ("x-bin", b"\0\1"), ("x-bin", b"\1"), ("x-bin", b"\2"))


@pytest.mark.parametrize("written", [b"A", b"A!", b"AAEC=A", b"-_-_"])
def test_what_is_not_base64_is_refused_and_not_repeated(written: bytes) -> None:
    with pytest.raises(BadHeadersError) as caught:
        read_request(call((b"token-bin", written)), MOST)
    assert caught.value.words == "the header token-bin is not base64"
    assert not caught.value.too_large


@pytest.mark.parametrize(
    ("written", "seconds"),
    [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"5u", 0.000005), (b"6n", 6e-9), (b"0S", 0)],
)
def test_units_of_time(written: bytes, seconds: float) -> None:
    assert read_request(call((b"grpc-timeout", written)), MOST).timeout == pytest.approx(seconds)


@pytest.mark.parametrize("written", [b"", b"S", b"1", b"-1S", b"1.5S", b"123456789S", b"1s", b"1S\xff", "١S".encode()])
def test_what_is_no_time(written: bytes) -> None:
    with pytest.raises(BadHeadersError, match="grpc-timeout"):
        read_request(call((b"grpc-timeout", written)), MOST)


@pytest.mark.parametrize("kind", [b"application/grpc", b"application/grpc+proto", b"application/grpc;charset=utf-8"])
def test_types_of_grpc(kind: bytes) -> None:
    assert read_request(call(kind=(b"content-type", kind)), MOST).path == "/a.B/C"


@pytest.mark.parametrize("kind", [b"application/grpc-web", b"application/json", b"", b"text/html"])
def test_other_types_are_not_grpc(kind: bytes) -> None:
    with pytest.raises(NotGrpcError) as caught:
        read_request(call(kind=(b"content-type", kind)), MOST)
    assert caught.value.status == 415


def test_no_type_is_none_either_and_only_post_is_a_call() -> None:
    for headers, status in (
        (list(SPECIAL), 415),
        (call(special=((b":method", b"GET"), *SPECIAL[1:])), 405),
    ):
        with pytest.raises(NotGrpcError) as caught:
            read_request(headers, MOST)
        assert caught.value.status == status


MALFORMED: dict[str, list[Header]] = {
    "no path": call(special=SPECIAL[:2]),
    "no method": call(special=SPECIAL[1:]),
    "an empty path": call(special=(*SPECIAL[:2], (b":path", b""))),
    "a path twice": call(special=(*SPECIAL, SPECIAL[2])),
    "a pseudo-header of answers": call(special=(*SPECIAL, (b":status", b"200"))),
    "one that comes late": call((b":authority", b"x")),
    "an upper case name": call((b"Authorization", b"x")),
    "an empty name": call((b"", b"x")),
    "a blank in a name": call((b"a b", b"x")),
    "a byte in a name": call((b"\xff", b"x")),
    "a line break": call((b"a", b"x\r\ny: z")),
    "a zero": call((b"a", b"\0")),
    "a header of connections": call((b"connection", b"close")),
    "another": call((b"transfer-encoding", b"chunked")),
    "other codings of transfer than trailers": [*SPECIAL, GRPC, (b"te", b"trailers, deflate")],
    "nothing": [],
}


@pytest.mark.parametrize("headers", MALFORMED.values(), ids=MALFORMED)
def test_what_http2_does_not_allow(headers: list[Header]) -> None:
    with pytest.raises(MalformedError):
        read_request(headers, MOST)


def test_so_many_bytes_and_no_more() -> None:
    room = MOST - size_of(call((b"a", b"")))
    assert read_request(call((b"a", b"x" * room)), MOST).metadata[0][0] == "a"
    with pytest.raises(BadHeadersError, match=f"{MOST + 1} vs. {MOST} bytes") as caught:
        read_request(call((b"a", b"x" * (room + 1))), MOST)
    assert caught.value.too_large


def test_bytes_count_without_their_base64() -> None:
    token = base64.b64encode(bytes(24 * 1024))
    assert len(token) == MOST
    assert read_request(call((b"token-bin", token)), MOST).metadata == (("token-bin", bytes(24 * 1024)),)


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=60)), max_size=8), st.booleans())
def test_any_headers_are_a_call_or_are_refused(headers: list[Header], whole: bool) -> None:
    try:
        request = read_request([*call(), *headers] if whole else headers, 500)
    except (MalformedError, NotGrpcError, BadHeadersError):
        return
    assert all(name == name.lower() and not name.startswith((":", "grpc-")) for name, _ in request.metadata)
    assert all(isinstance(value, bytes) == name.endswith("-bin") for name, value in request.metadata)


@given(st.text())
def test_a_sentence_arrives_as_it_was(words: str) -> None:
    words = words.encode("utf-8", "ignore").decode()
    found = dict(trailers(5, words))
    assert found[b"grpc-status"] == b"5"
    assert unquote(found.get(b"grpc-message", b"").decode("ascii")) == words[:MAX_WORDS]
    assert all(0x20 <= byte < 0x7F for byte in found.get(b"grpc-message", b""))


def test_a_sentence_may_hold_what_utf_8_cannot() -> None:
    assert dict(trailers(5, "a\udcffb"))[b"grpc-message"] == b"a?b"


def test_a_sentence_is_cut_where_a_header_would_be_too_long() -> None:
    assert len(dict(trailers(5, "x" * 5000))[b"grpc-message"]) == MAX_WORDS


def test_what_is_answered_is_kept_in_no_table() -> None:
    assert dict(trailers(0)) == {b"grpc-status": b"0"}
    assert dict(http_only(415))[b":status"] == b"415"
    for headers in (OPENING, trailers(3, "no"), http_only(415)):
        assert not any(header.indexable for header in headers)
