"""What was obtained and what failed since the process began, by identity: counters that only ever go up.

Apart from the keepers, for in node mode one follows another: with each fresh token of a workload its counts would begin
anew, and of two pods of one account the counts of one would be taken away with it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from meshpki.agent.rotation.failure import FailureKind

UNNAMED = ""
"""Whose attempts failed before the CA had said who they are."""


@dataclass(frozen=True, slots=True)
class Count:
    """Of one identity."""

    renewals: int
    """Certificates obtained."""
    failures: Mapping[FailureKind, int]
    """Failed attempts, by whose fault it was."""


class Ledger:
    """Names are SPIFFE IDs by the CA's word, or UNNAMED."""

    def __init__(self) -> None:
        self._renewals: Counter[str] = Counter()
        self._failures: dict[str, Counter[FailureKind]] = {}

    def __len__(self) -> int:
        """How many names there are."""
        return len(self._renewals.keys() | self._failures.keys())

    def renewed(self, name: str) -> None:
        """A certificate was obtained."""
        self._renewals[name] += 1

    def failed(self, name: str, kind: FailureKind) -> None:
        """An attempt failed."""
        self._failures.setdefault(name, Counter())[kind] += 1

    def keep_only(self, names: Collection[str]) -> None:
        """Forget all others, but not those without a name: whoever comes back begins anew."""
        here = {UNNAMED, *names}
        self._renewals = Counter({name: count for name, count in self._renewals.items() if name in here})
        self._failures = {name: counts for name, counts in self._failures.items() if name in here}

    def counts(self) -> Mapping[str, Count]:
        """Give all of it, as it is now."""
        names = self._renewals.keys() | self._failures.keys()
        return {name: Count(self._renewals[name], dict(self._failures.get(name, {}))) for name in sorted(names)}
