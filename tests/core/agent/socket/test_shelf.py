from __future__ import annotations

import gc
import weakref

import pytest

from meshpki.agent.rotation.feed import Feed
from meshpki.agent.rotation.snapshot import Snapshot
from meshpki.agent.socket.shelf import Shelf
from support.snapshots import snapshot

FIRST, SECOND = snapshot(1), snapshot(2)


class Maker:
    def __init__(self) -> None:
        self.made: list[tuple[int, str]] = []

    def __call__(self, held: Snapshot, form: str) -> str:
        self.made.append((held.serial, form))
        return f"{form} of {held.serial}"


@pytest.fixture
def maker() -> Maker:
    return Maker()


def test_each_form_of_a_snapshot_is_made_once_for_all_who_ask(maker: Maker) -> None:
    shelf, feed = Shelf(maker), Feed(FIRST)
    for _ in range(3):
        assert shelf.get(feed, FIRST, "short") == "short of 1"
        assert shelf.get(feed, FIRST, "long") == "long of 1"
    assert maker.made == [(1, "short"), (1, "long")]


def test_a_new_snapshot_takes_the_place_of_the_one_before_it(maker: Maker) -> None:
    shelf, feed = Shelf(maker), Feed(FIRST)
    shelf.get(feed, FIRST, "short")
    assert shelf.get(feed, SECOND, "short") == "short of 2"
    assert shelf.get(feed, snapshot(1), "short") == "short of 1", "an equal snapshot is another one"
    assert maker.made == [(1, "short"), (2, "short"), (1, "short")]


def test_feeds_have_nothing_of_each_other(maker: Maker) -> None:
    shelf = Shelf(maker)
    assert shelf.get(Feed(FIRST), FIRST, "short") == "short of 1"
    assert shelf.get(Feed(SECOND), SECOND, "short") == "short of 2"


def test_what_is_kept_of_a_feed_goes_with_it(maker: Maker) -> None:
    shelf = Shelf(maker)
    feed = Feed(FIRST)
    feeds = weakref.WeakSet[Feed]([feed])
    shelf.get(feed, FIRST, "short")
    del feed
    gc.collect()
    assert not feeds
