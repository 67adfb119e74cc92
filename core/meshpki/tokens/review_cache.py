"""Verdicts of an API server, kept for a while: by the token's digest, bounded in number and in time. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.tokens.review import Confirmed, Refused

if TYPE_CHECKING:
    from meshpki.tokens.review import Verdict

REFUSAL_SECONDS: Final = 5.0
"""A refusal may be a race of the cluster's own; a good verdict is what has to be bounded by the operator."""
MOST: Final = 20_000
"""About 300 bytes each; the least used goes first."""


@dataclass(frozen=True, slots=True)
class _Kept:
    verdict: Confirmed | Refused
    at: float
    until: float


class VerdictCache:
    """The state. Not safe for threads: its owner has a lock. Times are epoch seconds."""

    def __init__(self, seconds: float, *, refusal_seconds: float = REFUSAL_SECONDS, most: int = MOST) -> None:
        """`seconds`: how long a good verdict may be used; 0 keeps nothing."""
        self._seconds = seconds
        self._refusal_seconds = min(seconds, refusal_seconds)
        self._most = most
        self._kept: OrderedDict[bytes, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, digest: bytes, now: float) -> Confirmed | Refused | None:
        """The verdict, while it may be used. One from the future, for the clock went back, may not."""
        kept = self._kept.get(digest)
        if kept is None:
            return None
        if not kept.at <= now < kept.until:
            del self._kept[digest]
            return None
        self._kept.move_to_end(digest)
        return kept.verdict

    def put(self, digest: bytes, verdict: Verdict, *, expires_at: float, now: float) -> None:
        """Keep a verdict, never beyond the token's own end; one that is none is not kept."""
        if not isinstance(verdict, Confirmed | Refused):
            return
        seconds = self._seconds if isinstance(verdict, Confirmed) else self._refusal_seconds
        until = min(now + seconds, expires_at)
        if until <= now:
            return
        self._kept[digest] = _Kept(verdict, now, until)
        self._kept.move_to_end(digest)
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
