"""Whether API servers let us review tokens: asked at the start and now and then, beside the calls."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from typing import TYPE_CHECKING, Final

from meshpki.errors import UnavailableError
from meshpki.tokens.namesakes import overlaps
from meshpki.tokens.review import Cause

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.tokens.reviewer import TokenReviewer
    from meshpki.tokens.verify import TrustedCluster

_LOG = logging.getLogger(__name__)
WELL_SECONDS: Final = 60.0
"""Between two looks at an API server that answered the last one."""
FAILING_SECONDS: Final = 5.0
_NOT_ASKED: Final = "not asked yet"
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


class ReviewWatch:
    """Looks after the reviewers of all clusters. One thread looks; all may ask what was found."""

    def __init__(self, reviewers: Sequence[TokenReviewer], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._reviewers = reviewers
        self._clock = clock
        self._due: dict[str, float] = {}
        self._never_well = {reviewer.cluster: _NOT_ASKED for reviewer in reviewers}

    @property
    def needed(self) -> bool:
        """Whether there is anything to look after."""
        return bool(self._reviewers)

    def look(self) -> None:
        """Check every reviewer whose time has come. Waits for the network, one cluster after the other."""
        for reviewer in self._reviewers:
            if self._clock() >= self._due.get(reviewer.cluster, 0.0):
                self._check(reviewer)

    def failures(self) -> tuple[str, ...]:
        """What keeps the server from being ready: clusters whose API server never let us ask, a line each.

        One that did so once is not among them: that it is away is no reason to send callers elsewhere.
        """
        return tuple(f"reviews: cluster {name}: {why}" for name, why in list(self._never_well.items()))

    def failing(self) -> dict[str, Cause]:
        """Why, of each cluster whose API server cannot be asked now."""
        return {
            reviewer.cluster: reviewer.failure.cause for reviewer in self._reviewers if reviewer.failure is not None
        }

    def _check(self, reviewer: TokenReviewer) -> None:
        found = reviewer.check()
        name = reviewer.cluster
        self._due[name] = self._clock() + (WELL_SECONDS if found is None else FAILING_SECONDS)
        if found is None:
            self._never_well.pop(name, None)
        elif name in self._never_well:
            self._never_well[name] = _SAYS[found.cause]


class ApartWatch:
    """Tells when clusters that share an issuer turn out to share a key; their tokens by it are refused all along."""

    def __init__(self, clusters: Sequence[TrustedCluster], clock: Callable[[], float] = time.time) -> None:
        issuers = Counter(cluster.policy.issuer for cluster in clusters)
        self._clusters = [cluster for cluster in clusters if issuers[cluster.policy.issuer] > 1]
        self._clock = clock
        self._known: tuple[tuple[str, str], ...] = ()

    @property
    def needed(self) -> bool:
        """Whether there are any."""
        return bool(self._clusters)

    def look(self) -> None:
        """Compare their keys, and keep those fresh of whose cluster no token comes. May wait for the network."""
        for cluster in self._clusters:
            if cluster.keys is not None:
                with contextlib.suppress(UnavailableError):
                    cluster.keys.keys(None, self._clock())
        found = overlaps(self._clusters)
        for one, other in set(found) - set(self._known):
            _LOG.error("two clusters share issuer and key: tokens by it are refused", extra={"clusters": [one, other]})
        self._known = found

    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of those that cannot be told apart."""
        return self._known
