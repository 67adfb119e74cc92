"""When those who came in a moment are worked on together. Pure: what came, and times of any clock that goes forward."""

from __future__ import annotations

from typing import Final, Generic, TypeVar

_Item = TypeVar("_Item")
GATHER_SECONDS: Final = 0.003
"""Nobody waits for others for longer, however much happens meanwhile."""
GATHER_FROM: Final = 3


class Gathering(Generic[_Item]):
    """Those who are to be worked on next.

    Those who were just answered often ask again at once, and a batch that starts without them is small. So the next one
    waits for as many as were in the last; if they come, that takes about a millisecond. When they were fewer than
    three, nobody waits for anybody who is not there yet.
    """

    def __init__(self) -> None:
        self.wanted = 0
        """How many were in the last batch."""
        self._items: list[_Item] = []
        self._until = 0.0

    def add(self, item: _Item, now: float) -> None:
        """One more."""
        if not self._items:
            self._until = now + GATHER_SECONDS
        self._items.append(item)

    def patience(self, now: float) -> float | None:
        """Seconds to wait for what happens next: none where only what has happened counts; None: there is nobody."""
        if not self._items:
            return None
        return 0.0 if self._complete() else max(0.0, self._until - now)

    def due(self, now: float, *, nothing_more: bool) -> bool:
        """Whether it is time. `nothing_more`: all that has happened was taken."""
        return bool(self._items) and (now >= self._until or (nothing_more and self._complete()))

    def take(self) -> list[_Item]:
        """Those that are there, in the order in which they came."""
        items, self._items = self._items, []
        return items

    def _complete(self) -> bool:
        return self.wanted < GATHER_FROM or len(self._items) >= self.wanted
