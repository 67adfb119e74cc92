"""A warning that anybody can cause as often as they like: the first of its kind is said, of the others their number."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

SUM_SECONDS: Final = 60.0
MOST_KINDS: Final = 64
"""Kinds may have a caller's words in them: what is more than so many counts as one kind."""
_OTHERS: Final = "others"


@dataclass(slots=True)
class _Kind:
    timer: asyncio.TimerHandle
    times: int = 0
    last: Mapping[str, object] | None = None


class Repeats:
    """One message, said by a logger. Lives in one event loop; a kind that has been quiet for a minute is new again."""

    def __init__(
        self,
        log: logging.Logger,
        message: str,
        *,
        seconds: float = SUM_SECONDS,
        most_kinds: int = MOST_KINDS,
        level: int = logging.WARNING,
    ) -> None:
        self._log = log
        self._message = message
        self._seconds = seconds
        self._most_kinds = most_kinds
        self._level = level
        self._kinds: dict[str, _Kind] = {}

    def say(self, kind: str, extra: Mapping[str, object]) -> None:
        """Say it, or count what has been said just now; that is logged at debug level nevertheless."""
        if kind not in self._kinds and len(self._kinds) >= self._most_kinds:
            kind = _OTHERS
        known = self._kinds.get(kind)
        self._log.log(self._level if known is None else logging.DEBUG, self._message, extra=dict(extra))
        if known is None:
            self._kinds[kind] = _Kind(self._later(kind))
        else:
            known.times, known.last = known.times + 1, extra

    def _later(self, kind: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(self._seconds, self._sum_up, kind)

    def _sum_up(self, kind: str) -> None:
        known = self._kinds.pop(kind)
        if known.last is not None:
            summary = {**known.last, "times": known.times, "in_seconds": self._seconds}
            self._log.log(self._level, "%s, again and again; this is the last of them", self._message, extra=summary)
            self._kinds[kind] = _Kind(self._later(kind))
