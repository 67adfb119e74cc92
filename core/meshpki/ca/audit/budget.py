"""How many refusals a second are recorded one by one: a flood must not fill the disk. Pure: the time comes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(slots=True)
class RefusalBudget:
    """A token bucket, and a count by reason of what did not fit. Not safe for threads by itself."""

    per_second: float
    burst: int
    _level: float = field(default=-1.0)
    _at: float = 0.0
    _suppressed: dict[str, int] = field(default_factory=dict)
    _since: float = 0.0

    def admit(self, reason: str, now: float) -> bool:
        """Whether to record this refusal by itself; if not, it is counted. `now` is any clock that goes forward."""
        if self._level < 0:
            self._level, self._at = float(self.burst), now
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.per_second)
        self._at = now
        if self._level >= 1:
            self._level -= 1
            return True
        self.count(reason, now)
        return False

    def count(self, reason: str, now: float) -> None:
        """Count a refusal that is not recorded by itself. Reasons come out of our enumerations: they are few."""
        if not self._suppressed:
            self._since = now
        self._suppressed[reason] = self._suppressed.get(reason, 0) + 1

    def take_suppressed(self, now: float, *, after_seconds: float) -> Mapping[str, int]:
        """Hand over the counts once the oldest has waited `after_seconds`; nothing before."""
        if not self._suppressed or now - self._since < after_seconds:
            return {}
        taken, self._suppressed = self._suppressed, {}
        return taken
