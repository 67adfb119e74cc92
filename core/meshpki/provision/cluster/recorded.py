"""All that a detection asked and was answered. From this alone every verdict follows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.provision.cluster import (
    canary,
    certificates,
    discovery,
    issuer,
    permission,
    review,
    token,
    version,
)
from meshpki.provision.cluster.token import FOREIGN, Asked

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.provision.cluster.evidence import Exchange
    from meshpki.provision.cluster.review import ReviewSeen
    from meshpki.provision.cluster.verdict import Verdict
    from meshpki.provision.cluster.version import Release


@dataclass(frozen=True, slots=True)
class Recorded:
    """The answers, in the order in which they were asked for. None where a rung left nothing to ask."""

    namespace: str
    audience: str
    version: Exchange[version.VersionSeen]
    resources: Exchange[discovery.CoreResources]
    permissions: tuple[Exchange[permission.Granted], ...]
    account: Exchange[token.AccountSeen] | None
    token: Exchange[token.TokenSeen] | None
    review: Exchange[ReviewSeen] | None
    own_review: Exchange[ReviewSeen] | None
    """Without audiences: by the API server's own."""
    document: Exchange[issuer.DocumentSeen]
    keys: Exchange[issuer.KeysSeen] | None
    certificates: tuple[Exchange[certificates.CertificateResources], ...]
    canary: Exchange[canary.CanarySeen] | None = None
    canary_wanted: bool = False

    @property
    def release(self) -> Release | None:
        """The release whose features the cluster has; None when it could not be read."""
        return self.version.found.features if self.version.found else None

    @property
    def asked(self) -> Asked:
        """What the token was asked for."""
        needed = permission.needed(self.namespace, canary=self.canary_wanted)
        reviews = dict(zip(needed, self.permissions, strict=True))
        may_remove = reviews[permission.remove_account(self.namespace)]
        return Asked(self.namespace, (self.audience, FOREIGN), self.release, self.resources.found, may_remove)


def judge(recorded: Recorded) -> Iterator[Verdict]:
    """The verdict on each rung, in order."""
    asked, release = recorded.asked, recorded.release
    yield version.judge(recorded.version)
    yield discovery.judge(recorded.resources, release)
    yield permission.judge(recorded.permissions)
    minted = token.judge(recorded.account, recorded.token, asked)
    yield minted
    confirmed = review.judge(recorded.review, asked)
    yield confirmed
    yield review.judge_closed(recorded.own_review, minted, confirmed, asked)
    known = issuer.Known(
        release,
        recorded.token.found if recorded.token else None,
        recorded.own_review.found if recorded.own_review else None,
    )
    yield issuer.judge(recorded.document, recorded.keys, known)
    yield certificates.judge(recorded.certificates, recorded.version.found)
    if recorded.canary_wanted:
        yield canary.judge(recorded.canary, minted, recorded.namespace)
