"""Pages are put together; a forgotten place is read again; a list that does not end is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshpki.kube import listing
from meshpki.kube.errors import KubeAnswerError, KubeGoneError
from meshpki.kube.listing import Listing, read_all

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.kube.answer import JsonObject


def page(*names: str, following: str = "", version: str = "7") -> JsonObject:
    items = [{"metadata": {"name": name}} for name in names]
    return {"items": items, "metadata": {"resourceVersion": version, "continue": following}}


class Pages:
    """Answers page by page, and keeps what it was asked."""

    def __init__(self, *answers: JsonObject | KubeGoneError) -> None:
        self.answers = list(answers)
        self.asked: list[dict[str, str]] = []

    def __call__(self, query: Mapping[str, str]) -> JsonObject:
        self.asked.append(dict(query))
        answer = self.answers.pop(0)
        if isinstance(answer, KubeGoneError):
            raise answer
        return answer


def names(found: Listing) -> list[object]:
    return [item["metadata"]["name"] for item in found.items]  # type: ignore[index]


GONE = KubeGoneError("410", status=410)


def test_pages_are_put_together() -> None:
    pages = Pages(page("a", "b", following="t1"), page("c", following="t2"), page())
    found = read_all(pages, 2, "x")
    assert names(found) == ["a", "b", "c"]
    assert found.resource_version == "7"
    assert pages.asked == [{"limit": "2"}, {"limit": "2", "continue": "t1"}, {"limit": "2", "continue": "t2"}]


def test_a_place_that_the_server_forgot_is_read_again_at_once_and_whole() -> None:
    pages = Pages(page("a", "old", following="t1"), GONE, page("a", "b", "c", version="9"))
    found = read_all(pages, 2, "x")
    assert names(found) == ["a", "b", "c"], "nothing of the first reading is left"
    assert found.resource_version == "9"
    assert pages.asked[-1] == {}


def test_a_server_that_is_always_gone_is_an_error() -> None:
    with pytest.raises(KubeGoneError):
        read_all(Pages(GONE, GONE), 2, "x")


def test_a_page_that_leads_to_itself_is_an_error() -> None:
    with pytest.raises(KubeAnswerError, match="does not end"):
        read_all(Pages(page("a", following="t"), page("b", following="t")), 1, "x")


def test_a_list_without_end_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_OBJECTS", 10)
    with pytest.raises(KubeAnswerError, match="does not end"):
        read_all(Pages(*(page("a", "b", following=f"t{number}") for number in range(99))), 2, "x")


@pytest.mark.parametrize("answer", [{}, {"items": None}, {"items": None, "metadata": None}])
def test_empty_lists_as_go_writes_them(answer: JsonObject) -> None:
    assert read_all(Pages(answer), 2, "x") == Listing((), "")


def test_items_of_another_shape_are_an_error() -> None:
    with pytest.raises(KubeAnswerError, match="no list of objects"):
        read_all(Pages({"items": ["a"]}), 2, "x")
