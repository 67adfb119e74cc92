"""Whether the tokens of each cluster can be judged: looked at from the start on, beside the calls."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

from meshpki.ca.server.housekeeping import Housekeeping
from meshpki.errors import UnavailableError
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.namesakes import known_keys, overlaps
from meshpki.tokens.review import Cause
from meshpki.tokens.reviewer import TokenReviewer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.tokens.trusted_cluster import TrustedCluster

_LOG = logging.getLogger(__name__)
WELL_SECONDS: Final = 60.0
"""Between two looks at an API server that answered the last one."""
FAILING_SECONDS: Final = 5.0
LEAVE_SECONDS: Final = 1.0
PERIOD_SECONDS: Final = 0.5
"""Between two looks: keys in a file are fresh for a second, and no call is to look at a file itself."""
_SAYS: Final = {
    Cause.AWAY: "the API server does not answer",
    Cause.SLOW: "the API server does not answer in time",
    Cause.THROTTLED: "the API server sheds load",
    Cause.SERVER_ERROR: "the API server answers with errors of its own",
    Cause.UNAUTHORIZED: "the API server does not know the reviewer, or the reviewer has no credential",
    Cause.FORBIDDEN: "the reviewer may not create tokenreviews.authentication.k8s.io",
    Cause.ANSWER: "what answers is no API server that reviews tokens",
    Cause.BUSY: "too many reviews at once",
}
"""For pages that everybody may read: without addresses and files, which stand in the log."""


class ClusterWatch:
    """Looks after one cluster: its first keys; keys in a file, and its reviewer, all along. One looks; all may ask."""

    def __init__(
        self,
        cluster: TrustedCluster,
        *,
        namesakes: Sequence[TrustedCluster] = (),
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`namesakes` have its issuer: keys tell them apart, so all must be known, and its own are kept fresh."""
        self.name = cluster.policy.cluster
        self._keys = cluster.keys
        self._reviewer = cluster.reviewer if isinstance(cluster.reviewer, TokenReviewer) else None
        self._namesakes = namesakes
        self._clock = clock
        self._monotonic = monotonic
        self._due = 0.0
        self._without_keys = self._keys is not None
        self._never_well = "not asked yet" if self._reviewer is not None else ""
        self._said: tuple[str, ...] = ()

    @property
    def ready(self) -> bool:
        """Whether everything that judges its tokens was there at least once since the start.

        That it is away later is no reason to send callers elsewhere: another replica would fare alike.
        """
        return not self.failures() and all(known_keys(other) is not None for other in self._namesakes)

    def failures(self) -> tuple[str, ...]:
        """What was not there yet, a line each."""
        keys = (f"keys: none yet for cluster {self.name}",) if self._without_keys else ()
        return (*keys, f"reviews: cluster {self.name}: {self._never_well}") if self._never_well else keys

    def look(self) -> None:
        """Look at what is due. May wait for the network, or for a file system that hangs."""
        before = self.failures()
        if isinstance(self._keys, FileKeySource):
            self._keys.look(self._clock())
        if self._keys is not None and (self._without_keys or self._namesakes):
            self._look_for_keys()
        if self._reviewer is not None and self._monotonic() >= self._due:
            self._check(self._reviewer)
        if before:
            self._tell()

    def _look_for_keys(self) -> None:
        assert self._keys is not None
        try:
            self._keys.keys(None, self._clock())
        except UnavailableError:
            return
        self._without_keys = False

    def _check(self, reviewer: TokenReviewer) -> None:
        found = reviewer.check()
        self._due = self._monotonic() + (WELL_SECONDS if found is None else FAILING_SECONDS)
        if found is None:
            self._never_well = ""
        elif self._never_well:
            self._never_well = _SAYS[found.cause]

    def _tell(self) -> None:
        failures = self.failures()
        if failures and failures != self._said:
            _LOG.warning("no token of a cluster can be judged yet", extra={"cluster": self.name, "why": list(failures)})
        elif not failures and self._said:
            _LOG.info("the tokens of a cluster can be judged", extra={"cluster": self.name})
        self._said = failures


class ApartWatch:
    """Tells when clusters that share an issuer turn out to share a key; their tokens by it are refused all along."""

    def __init__(self, clusters: Sequence[TrustedCluster]) -> None:
        self._clusters = [cluster for cluster in clusters if _namesakes(cluster, clusters)]
        self._known: tuple[tuple[str, str], ...] = ()

    def look(self) -> None:
        """Compare the keys of all, as they were last seen. Waits for nobody."""
        found = overlaps(self._clusters)
        for one, other in set(found) - set(self._known):
            _LOG.error("two clusters share issuer and key: tokens by it are refused", extra={"clusters": [one, other]})
        self._known = found

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of those that cannot be told apart."""
        return self._known


class Lookout:
    """Looks after all clusters from `start` to `stop`."""

    def __init__(self, clusters: Sequence[TrustedCluster], clock: Callable[[], float] = time.time) -> None:
        """`clock` is epoch seconds."""
        self.clusters = [ClusterWatch(each, namesakes=_namesakes(each, clusters), clock=clock) for each in clusters]
        self.apart = ApartWatch(clusters)
        # One thread for each: no look at one waits for another.
        self._outside = [Housekeeping({each.name: each.look}, period=PERIOD_SECONDS) for each in self.clusters]

    def start(self) -> None:
        """Begin."""
        for each in self._outside:
            each.start()

    def end(self) -> None:
        """Begin no other look. Waits for nothing."""
        for each in self._outside:
            each.end()

    def stop(self) -> None:
        """Wait for the looks that are under way, for LEAVE_SECONDS together; one that hangs is left to itself."""
        self.end()
        deadline = time.monotonic() + LEAVE_SECONDS
        for each in self._outside:
            each.stop(max(0.0, deadline - time.monotonic()))


def _namesakes(cluster: TrustedCluster, clusters: Sequence[TrustedCluster]) -> list[TrustedCluster]:
    return [other for other in clusters if other is not cluster and other.policy.issuer == cluster.policy.issuer]
