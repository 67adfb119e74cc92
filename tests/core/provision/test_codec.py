"""Canonical JSON, and the strict way back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.provision import codec

if TYPE_CHECKING:
    from meshpki.hooks import Value

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
VALUES = TEXTS | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans() | st.lists(TEXTS, max_size=3).map(tuple)
PARAMS = st.dictionaries(TEXTS.filter(bool), VALUES, max_size=6)


@given(PARAMS)
def test_parameters_come_back_as_they_went(params: dict[str, Value]) -> None:
    back = codec.read_params(codec.decode(codec.canonical(codec.params_to_json(params))), "it")
    assert back == params
    assert {name: type(value) for name, value in back.items()} == {n: type(v) for n, v in params.items()}


@given(PARAMS, st.randoms())
def test_the_digest_does_not_depend_on_the_order(params: dict[str, Value], random: object) -> None:
    names = list(params)
    random.shuffle(names)  # type: ignore[attr-defined]  # hypothesis' Random
    shuffled = {name: params[name] for name in names}
    assert codec.digest(codec.params_to_json(shuffled)) == codec.digest(codec.params_to_json(params))


@given(PARAMS, PARAMS)
def test_different_parameters_have_different_digests(one: dict[str, Value], two: dict[str, Value]) -> None:
    same = one == two and all(type(one[name]) is type(two[name]) for name in one)
    assert (codec.digest(codec.params_to_json(one)) == codec.digest(codec.params_to_json(two))) == same


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ('{"a": 1, "a": 1}', "stands twice"),
        ('{"a": {"b": 1, "b": 2}}', "stands twice"),
        ('{"a": 1.0}', "number 1.0"),
        ('{"a": 1e3}', "number 1e3"),
        ('{"a": NaN}', "number NaN"),
        ('{"a": -Infinity}', "number -Infinity"),
        ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
        ("[" * 100_000, "nested too deep"),
        ("{", "no JSON"),
        ("", "no JSON"),
        ('{"a": 1} x', "no JSON"),
        (b"\xff\xfe{", "no JSON"),
    ],
)
def test_what_we_did_not_write_is_refused(text: str | bytes, seen: str) -> None:
    with pytest.raises(InvalidValueError, match=seen):
        codec.decode(text)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_any_bytes_are_a_value_or_a_refusal(text: str | bytes) -> None:
    with contextlib.suppress(InvalidValueError):
        codec.decode(text)


@pytest.mark.parametrize("value", ["null", "[]", '"x"', "1", "true"])
def test_a_reader_wants_an_object(value: str) -> None:
    with pytest.raises(InvalidValueError, match="a JSON object"):
        codec.Reader(codec.decode(value), "it")


def test_a_reader_refuses_what_nobody_asked_for_and_what_is_missing() -> None:
    reader = codec.Reader({"a": "x", "b": 1}, "it")
    assert reader.text("a") == "x"
    with pytest.raises(InvalidValueError, match="unknown members: 'b'"):
        reader.end()
    with pytest.raises(InvalidValueError, match="no member 'a'"):
        reader.text("a")


@pytest.mark.parametrize(
    ("method", "value"),
    [
        ("text", 1),
        ("text", True),
        ("integer", "1"),
        ("integer", True),
        ("flag", 1),
        ("flag", "true"),
        ("texts", "abc"),
        ("texts", [1]),
        ("params", []),
        ("params", {"a": {}}),
        ("params", {"a": [1]}),
    ],
)
def test_nothing_is_coerced(method: str, value: codec.Json) -> None:
    with pytest.raises(InvalidValueError):
        getattr(codec.Reader({"a": value}, "it"), method)("a")
