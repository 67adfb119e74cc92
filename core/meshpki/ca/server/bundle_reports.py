"""Which roots each agent says that it serves: in memory, bounded, so that a rotation can wait for proof.

What an agent says is its own word, and its credential tells only who says it. A restart of the CA forgets: every agent
reports again with its next renewal.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from meshpki.identity import ServiceAccountRef

MOST_REPORTERS: Final = 20_000
"""About 600 bytes each. One more is refused until others have expired."""
MOST_OF_ONE_ACCOUNT: Final = 5_000
"""So that no workload drives out others by renewing again and again: one more drives out the account's oldest."""
MOST_DIGESTS_SHOWN: Final = 16
"""In metrics, for a digest is a word of the caller's: of the others, only their number."""
OTHERS: Final = "other"


@dataclass(frozen=True, slots=True)
class Reporter:
    """One agent, as far as its credential tells it from others."""

    cluster: str
    """Empty where a certificate was the credential: it names none."""
    service_account: ServiceAccountRef
    instance: str
    """`pod:<uid>`, `token:<jti>` for a token without a pod, or `serial:<hexadecimal>` of the certificate."""


@dataclass(frozen=True, slots=True)
class BundleReport:
    """What an agent last said."""

    digest: str
    """SHA-256 of the bundle, 64 lower-case hexadecimal digits."""
    sequence: int
    roots: int
    at: float
    """When it came, in epoch seconds."""
    expires_at: float
    """From then on it tells nothing: no certificate of that agent can still be valid."""


class ReportsFullError(Exception):
    """There is no room for another reporter; internal to the CA."""


class BundleReports:
    """The last report of each. Safe for threads."""

    def __init__(self, *, most: int = MOST_REPORTERS, most_of_one_account: int = MOST_OF_ONE_ACCOUNT) -> None:
        self._most = most
        self._most_of_one_account = most_of_one_account
        self._lock = threading.Lock()
        self._accounts: dict[tuple[str, ServiceAccountRef], OrderedDict[str, BundleReport]] = {}
        self._count = 0

    def put(self, reporter: Reporter, report: BundleReport) -> None:
        """Keep this report in place of the reporter's last. Raises ReportsFullError."""
        account = (reporter.cluster, reporter.service_account)
        with self._lock:
            known = self._accounts.get(account, OrderedDict())
            if reporter.instance not in known:
                self._make_room(known, report.at)
                known = self._accounts.setdefault(account, OrderedDict())
                self._count += 1
            known[reporter.instance] = report
            known.move_to_end(reporter.instance)

    def _make_room(self, known: OrderedDict[str, BundleReport], now: float) -> None:
        if len(known) >= self._most_of_one_account:
            known.popitem(last=False)
            self._count -= 1
        elif self._count >= self._most:
            self._forget_expired(now)
            if self._count >= self._most:
                raise ReportsFullError

    def listing(self, now: float) -> list[tuple[Reporter, BundleReport]]:
        """Every report that still tells something at `now`, by cluster, account and instance."""
        with self._lock:
            self._forget_expired(now)
            # A copy, and no more: 20,000 take a fifteenth of a second to sort, and `put` is called where nobody waits.
            found = [(account, tuple(known.items())) for account, known in self._accounts.items()]
        return sorted(
            ((Reporter(*account, instance), report) for account, known in found for instance, report in known),
            key=lambda each: (each[0].cluster, each[0].service_account, each[0].instance),
        )

    def counts(self, now: float) -> dict[str, int]:
        """How many agents serve which bundle, by digest; the rarest together under `other` when they are many."""
        with self._lock:
            self._forget_expired(now)
            counted = Counter(report.digest for known in self._accounts.values() for report in known.values())
        shown = dict(counted.most_common(MOST_DIGESTS_SHOWN))
        others = counted.total() - sum(shown.values())
        return {**shown, OTHERS: others} if others else shown

    def _forget_expired(self, now: float) -> None:
        for account, known in list(self._accounts.items()):
            for instance in [instance for instance, report in known.items() if report.expires_at <= now]:
                del known[instance]
                self._count -= 1
            if not known:
                del self._accounts[account]
