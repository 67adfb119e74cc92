"""Untrusted values and moments in messages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.tokens.texts import listed, moment, quoted


@given(st.text(max_size=500))
def test_quoted_is_short_printable_ascii(text: str) -> None:
    shown = quoted(text)
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 1000


def test_long_values_are_cut_and_counted() -> None:
    assert quoted("x" * 500) == f"'{'x' * 80}' (cut, 500 characters)"
    assert listed([str(number) for number in range(9)]) == "'0', '1', '2', '3', '4' and 4 more"
    assert listed(["a", "b"]) == "'a', 'b'"


def test_a_lone_surrogate_can_be_written() -> None:
    assert quoted("\ud800").encode() == b"'\\ud800'"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_800_000_000.9, "2027-01-15T08:00:00Z"),
        (-5, "1970-01-01T00:00:00Z"),
        (10**18, "9999-12-31T23:59:59Z"),
    ],
)
def test_moments_are_rfc_3339(seconds: float, text: str) -> None:
    assert moment(seconds) == text
