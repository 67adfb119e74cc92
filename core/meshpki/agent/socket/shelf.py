"""What faces make of a snapshot, kept once for all streams of an identity, and only while it is the newest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

    from meshpki.agent.rotation.feed import Feed
    from meshpki.agent.rotation.snapshot import Snapshot

Form = TypeVar("Form")
Made = TypeVar("Made")


class Shelf(Generic[Form, Made]):
    """Keeps nothing alive: what was made of a feed's snapshot is gone with the feed, or with its next snapshot."""

    def __init__(self, make: Callable[[Snapshot, Form], Made]) -> None:
        self._make = make
        self._kept: MutableMapping[Feed, tuple[Snapshot, dict[Form, Made]]] = WeakKeyDictionary()

    def get(self, feed: Feed, snapshot: Snapshot, form: Form) -> Made:
        """Give what is made of `snapshot`, the one that `feed` serves now, in this form."""
        kept = self._kept.get(feed)
        if kept is None or kept[0] is not snapshot:
            kept = self._kept[feed] = (snapshot, {})
        if form not in kept[1]:
            kept[1][form] = self._make(snapshot, form)
        return kept[1][form]
