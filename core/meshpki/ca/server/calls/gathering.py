"""Whether those who come in a moment are complete. Pure: what came, and times of any clock that goes forward."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable

_Item = TypeVar("_Item")
GATHER_FROM: Final = 3
"""Fewer are not waited for."""


class Gathering(Generic[_Item]):
    """Those who are next, until as many as are `wanted` are there, or the first has waited for long enough.

    When fewer than three are wanted, nobody waits for anybody who is not there yet.
    """

    def __init__(self, seconds: float, most: int = sys.maxsize) -> None:
        """Whatever happens meanwhile, nobody waits for others for longer than `seconds`, or for more than `most`."""
        self.wanted = 0
        """As many as there were last time, say."""
        self.most = most
        self._seconds = seconds
        self._items: list[_Item] = []
        self._until = 0.0

    def add(self, item: _Item, now: float) -> None:
        """One more."""
        if not self._items:
            self._until = now + self._seconds
        self._items.append(item)

    def nearly_full(self) -> bool:
        """Whether somebody is there, and with one more as many as may be."""
        there = len(self._items)
        return there > 0 and there + 1 >= self.most

    def patience(self, now: float) -> float | None:
        """Seconds to wait for what happens next: none where only what has happened counts; None: there is nobody."""
        if not self._items:
            return None
        return 0.0 if self._complete() else max(0.0, self._until - now)

    def due(self, now: float, *, nothing_more: bool) -> bool:
        """Whether it is time. `nothing_more`: all that has happened was taken."""
        there = len(self._items)
        return there > 0 and (there >= self.most or now >= self._until or (nothing_more and self._complete()))

    def take(self) -> list[_Item]:
        """Those that are there, as many as may be, in the order in which they came."""
        items, self._items = self._items[: self.most], self._items[self.most :]
        return items

    def put_back(self, items: Iterable[_Item]) -> None:
        """Some that were taken are the first again."""
        self._items[:0] = items

    def _complete(self) -> bool:
        return self.wanted < GATHER_FROM or len(self._items) >= self.wanted
