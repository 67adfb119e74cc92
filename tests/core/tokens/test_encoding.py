"""Strict base64url and JSON, against slow references."""

from __future__ import annotations

import json
import string

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshpki.tokens.encoding import (
    MAX_DEPTH,
    DuplicateMemberError,
    StrictJsonError,
    decode_base64url,
    read_object,
)
from support.tokens import b64url

ALPHABET = (string.ascii_letters + string.digits + "-_").encode()


@pytest.mark.parametrize(
    ("part", "data"),
    [(b"", b""), (b"YQ", b"a"), (b"YWI", b"ab"), (b"YWJj", b"abc"), (b"-_-_", b"\xfb\xff\xbf"), (b"AA", b"\0")],
)
def test_canonical(part: bytes, data: bytes) -> None:
    assert decode_base64url(part) == data


@pytest.mark.parametrize(
    "part",
    [
        b"YQ==",
        b"YQ=",
        b"=",
        b"YWI=",
        b"YWJj=",
        b"YR",  # left-over bits
        b"YWJ",
        b"Y",
        b"YWJjZ",
        b"+/+/",
        b"YW Jj",
        b"YWJj\n",
        b"\nYWJj",
        b"YW.Jj",
        b"YWJ\x00",
        b"YWJ\xff",
        b"YWJ%3D",
    ],
)
def test_not_canonical(part: bytes) -> None:
    assert decode_base64url(part) is None


@given(st.binary(max_size=200))
def test_what_is_encoded_decodes(data: bytes) -> None:
    assert decode_base64url(b64url(data)) == data


@given(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(ALPHABET + b"="), max_size=40).map(bytes)))
def test_two_texts_never_mean_the_same_bytes(part: bytes) -> None:
    data = decode_base64url(part)
    assert data is None or b64url(data) == part


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"{}", {}),
        (b' \t\r\n{"a" : 1 } \n', {"a": 1}),
        (b'{"a":{"a":1},"b":[{"a":2},{"a":3}]}', {"a": {"a": 1}, "b": [{"a": 2}, {"a": 3}]}),
        ('{"ä":"\\u00e4"}'.encode(), {"ä": "ä"}),
        (b'{"a":1.5,"b":-0,"c":true,"d":null}', {"a": 1.5, "b": 0, "c": True, "d": None}),
        (b'{"a":"' + b"[{" * 100 + b'"}', {"a": "[{" * 100}),
        (b'{"a":"\\"' + b"[" * 100 + b'\\\\"}', {"a": '"' + "[" * 100 + "\\"}),
    ],
)
def test_objects(text: bytes, value: object) -> None:
    assert read_object(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"a"',
        b"{}{}",
        b"{} x",
        b"\xef\xbb\xbf{}",
        b"{'a':1}",
        b'{"a":1,}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":.5}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b'{"a":-1e999}',
        b'{"a":"\n"}',
        b'{"a":"\xff"}',
        b'{"a":"\xed\xa0\x80"}',  # a surrogate in UTF-8
        b'{"a":' + b"9" * 5000 + b"}",
        "{}".encode("utf-16"),
        "{}".encode("utf-32"),
        b"// x\n{}",
        b"\x00{}",
    ],
)
def test_no_strict_object(text: bytes) -> None:
    with pytest.raises(StrictJsonError) as caught:
        read_object(text)
    assert not isinstance(caught.value, DuplicateMemberError)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":2,"a":3}',
        b'{"a":1,"\\u0061":1}',
        b'{"x":{"a":1,"a":2}}',
        b'{"x":[1,{"y":{"a":1,"b":1,"a":2}}]}',
        b'{"":1,"":2}',
    ],
)
def test_duplicates(text: bytes) -> None:
    with pytest.raises(DuplicateMemberError):
        read_object(text)


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"x":', b"}")])
def test_nesting_is_bounded(opening: bytes, closing: bytes) -> None:
    def text(levels: int) -> bytes:
        return b'{"a":' + opening * (levels - 1) + b"1" + closing * (levels - 1) + b"}"

    assert read_object(text(MAX_DEPTH))
    with pytest.raises(StrictJsonError, match="nested"):
        read_object(text(MAX_DEPTH + 1))


def test_many_brackets_side_by_side_are_not_deep() -> None:
    assert len(read_object(b'{"a":[' + b",".join([b"[]"] * 500) + b"]}")) == 1


def test_a_hundred_thousand_brackets_end_in_a_refusal() -> None:
    for text in (b"[" * 100_000, b'{"a":' * 100_000, b'"\\' * 50_000 + b"[" * 50):
        with pytest.raises(StrictJsonError):
            read_object(text)


# --- duplicates, against a reference that keeps every pair ---------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "sub", "aud", ":", '":', '"', "\\", "ä", ""])
LEAVES = st.one_of(st.integers(-9, 9), st.booleans(), st.none(), NAMES)


class Pairs(list[tuple[str, object]]):
    """An object that keeps every member, also two of one name."""


TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.lists(st.tuples(NAMES, inner), max_size=4).map(Pairs)),
    max_leaves=12,
)


def render(tree: object, space: str, escaped: bool) -> str:
    if isinstance(tree, Pairs):
        members = (
            json.dumps(name, ensure_ascii=escaped) + space + ":" + space + render(value, space, escaped)
            for name, value in tree
        )
        return "{" + space + ("," + space).join(members) + "}"
    if isinstance(tree, list):
        return "[" + ("," + space).join(render(value, space, escaped) for value in tree) + space + "]"
    return json.dumps(tree, ensure_ascii=escaped)


def has_duplicate(tree: object) -> bool:
    if isinstance(tree, Pairs):
        names = [name for name, _ in tree]
        return any(names.count(name) > 1 for name in names) or any(has_duplicate(value) for _, value in tree)
    return isinstance(tree, list) and any(has_duplicate(value) for value in tree)


@given(st.lists(st.tuples(NAMES, TREES), max_size=4).map(Pairs), st.sampled_from(["", " ", "\n\t"]), st.booleans())
@example(Pairs([("a", 1), ("a", 1)]), " ", False)
def test_duplicates_are_found_exactly_as_the_slow_reference_finds_them(tree: Pairs, space: str, escaped: bool) -> None:
    text = render(tree, space, escaped)
    kept = json.loads(text, object_pairs_hook=Pairs)
    assert has_duplicate(kept) == has_duplicate(tree)
    if has_duplicate(kept):
        with pytest.raises(DuplicateMemberError):
            read_object(text.encode())
    else:
        assert read_object(text.encode()) == json.loads(text)


@given(st.one_of(st.binary(max_size=60), st.text('{}[]",:\\ab0', max_size=60).map(str.encode)))
def test_any_bytes_give_an_object_or_one_kind_of_error_that_holds_none_of_them(data: bytes) -> None:
    try:
        value = read_object(data)
    except StrictJsonError as error:
        assert error.__context__ is None
        assert error.__cause__ is None
    else:
        assert value == json.loads(data.decode())
