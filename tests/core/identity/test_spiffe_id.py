"""SPIFFE IDs, by SPIFFE-ID section 2."""

from __future__ import annotations

import contextlib
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef, SpiffeId, TrustDomain

SEGMENT = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=30).filter(
    lambda text: text not in {".", ".."}
)
DOMAIN = st.text(string.ascii_lowercase + string.digits + "._-", min_size=1, max_size=60)


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("spiffe://example.org", ()),
        ("spiffe://example.org/a", ("a",)),
        ("spiffe://example.org/ns/default/sa/web", ("ns", "default", "sa", "web")),
        ("spiffe://1.2.3.4/A.b_C-9", ("A.b_C-9",)),
        ("spiffe://example.org/...", ("...",)),
    ],
)
def test_valid(text: str, segments: tuple[str, ...]) -> None:
    spiffe_id = SpiffeId.parse(text)
    assert spiffe_id.segments == segments
    assert str(spiffe_id) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe:///a",
        "example.org/a",
        "https://example.org/a",
        "SPIFFE://example.org/a",
        "spiffe://Example.org/a",
        "spiffe://example.org/",
        "spiffe://example.org/a/",
        "spiffe://example.org//a",
        "spiffe://example.org/a//b",
        "spiffe://example.org/./a",
        "spiffe://example.org/a/..",
        "spiffe://example.org/a/../b",
        "spiffe://example.org/%61",
        "spiffe://example.org/%2e%2e/a",
        "spiffe://example.org/a?b",
        "spiffe://example.org/a#b",
        "spiffe://example.org?a",
        "spiffe://example.org:443/a",
        "spiffe://user@example.org/a",
        "spiffe://example.org/a b",
        "spiffe://example.org/ä",
        "spiffe://example.org/a\n",
        " spiffe://example.org/a",
        "spiffe://example.org/a\\b",
    ],
)
def test_invalid(text: str) -> None:
    with pytest.raises(InvalidValueError):
        SpiffeId.parse(text)


def test_2048_bytes_are_supported_and_no_more() -> None:
    head = "spiffe://example.org/"
    assert str(SpiffeId.parse(head + "x" * (2048 - len(head))))
    with pytest.raises(InvalidValueError, match="2048"):
        SpiffeId.parse(head + "x" * (2049 - len(head)))
    with pytest.raises(InvalidValueError, match="2048"):
        SpiffeId(TrustDomain("example.org"), ("x" * 2048,))


@pytest.mark.parametrize("segment", ["", ".", "..", "a/b", "a b", "%41", "ü"])
def test_a_segment_given_directly_is_checked_as_well(segment: str) -> None:
    with pytest.raises(InvalidValueError):
        SpiffeId(TrustDomain("example.org"), ("a", segment))


def test_of_a_service_account() -> None:
    spiffe_id = SpiffeId.for_service_account(TrustDomain("mesh.local"), ServiceAccountRef("default", "a.b-c"))
    assert str(spiffe_id) == "spiffe://mesh.local/ns/default/sa/a.b-c"
    assert spiffe_id.path == "/ns/default/sa/a.b-c"
    assert SpiffeId(TrustDomain("mesh.local")).path == ""


def test_the_longest_names_of_kubernetes_fit() -> None:
    account = ServiceAccountRef("n" * 63, "a" * 253)
    assert len(str(SpiffeId.for_service_account(TrustDomain("d" * 255), account))) < 2048


@given(DOMAIN, st.lists(SEGMENT, max_size=6))
def test_text_and_value_are_one(domain: str, segments: list[str]) -> None:
    spiffe_id = SpiffeId(TrustDomain(domain), tuple(segments))
    assert SpiffeId.parse(str(spiffe_id)) == spiffe_id


@given(st.text(max_size=80))
def test_what_is_parsed_is_never_changed(text: str) -> None:
    for candidate in (text, "spiffe://" + text, "spiffe://a/" + text):
        with contextlib.suppress(InvalidValueError):
            assert str(SpiffeId.parse(candidate)) == candidate
