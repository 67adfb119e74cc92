"""What a watch knows: the same, however the changes arrive."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.kube.errors import KubeAnswerError
from meshpki.kube.listing import Listing
from meshpki.kube.observed import NOTHING, Observed, WatchFailedError, after_events, after_listing


def item(name: str, version: int, namespace: str = "") -> dict[str, object]:
    return {"metadata": {"name": name, "namespace": namespace, "resourceVersion": str(version)}}


def line(kind: str, value: object) -> bytes:
    return json.dumps({"type": kind, "object": value}).encode()


def listed(*items: dict[str, object], version: str = "10") -> Observed:
    return after_listing(NOTHING, Listing(items, version))


def test_a_listing_is_everything() -> None:
    before = listed(item("a", 1), item("b", 2), item("c", 3))
    after = after_listing(before, Listing((item("a", 1), item("b", 9), item("d", 4)), "20"))
    assert set(after.objects) == {("", "a"), ("", "b"), ("", "d")}
    assert after.changed == {("", "b"), ("", "c"), ("", "d")}
    assert after.resource_version == "20"


def test_events_change_what_is_known_and_bookmarks_only_the_place() -> None:
    before = listed(item("a", 1), item("b", 2))
    after = after_events(
        before,
        [
            line("ADDED", item("c", 11, "ns")),
            line("MODIFIED", item("a", 12)),
            line("DELETED", item("b", 13)),
            line("BOOKMARK", {"metadata": {"resourceVersion": "99"}}),
        ],
    )
    assert set(after.objects) == {("", "a"), ("ns", "c")}
    assert after.changed == {("", "a"), ("", "b"), ("ns", "c")}
    assert after.resource_version == "99"
    assert set(before.objects) == {("", "a"), ("", "b")}, "what was handed out before stays as it was"


def test_an_object_without_a_version_leaves_the_place_where_it_was() -> None:
    nowhere = {"metadata": {"name": "x"}}
    assert after_events(listed(item("a", 1)), [line("ADDED", nowhere)]).resource_version == "10"
    assert after_events(listed(item("a", 1)), [line("BOOKMARK", {})]).resource_version == "10"


def test_what_is_handed_out_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        listed(item("a", 1)).objects["x"] = {}  # type: ignore[index]


def test_an_error_event_is_the_answer_that_it_stands_for() -> None:
    with pytest.raises(WatchFailedError) as caught:
        after_events(NOTHING, [line("ERROR", {"kind": "Status", "code": 410, "message": "too old"})])
    assert caught.value.answer.status == 410
    with pytest.raises(WatchFailedError) as caught:
        after_events(NOTHING, [line("ERROR", None)])
    assert caught.value.answer.status == 500


BAD_EVENTS = [
    b"x",
    b"[]",
    line("ADDED", None),
    line("ADDED", {"metadata": {"name": 1}}),
    line("RENAMED", item("a", 1)),
    line("", item("a", 1)),
]


@pytest.mark.parametrize("bad", BAD_EVENTS)
def test_events_that_cannot_be_read_are_errors(bad: bytes) -> None:
    with pytest.raises(KubeAnswerError):
        after_events(NOTHING, [bad])


_CHANGES = st.lists(st.tuples(st.sampled_from(["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]), st.sampled_from("abc")))


@settings(deadline=None)
@given(changes=_CHANGES, cuts=st.lists(st.integers(0, 20)), lost=st.integers(0, 20))
def test_however_changes_arrive_the_end_is_the_same(changes: list[tuple[str, str]], cuts: list[int], lost: int) -> None:
    """All at once, cut in pieces, or some missed and listed again: level, not edge."""
    lines = [line(kind, item(name, number)) for number, (kind, name) in enumerate(changes, 11)]
    whole = after_events(NOTHING, lines)
    pieces = NOTHING
    edges = sorted({0, len(lines), *(cut for cut in cuts if cut < len(lines))})
    for begin, end in itertools.pairwise(edges):
        pieces = after_events(pieces, lines[begin:end])
    missed = after_listing(after_events(NOTHING, lines[:lost]), Listing(tuple(whole.objects.values()), "end"))
    assert pieces.objects == whole.objects == missed.objects
