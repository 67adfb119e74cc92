"""Whether the server can issue now, and if not, why: for /readyz, gRPC health and whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.server.cluster_watch import ClusterWatch


class Readiness:
    """The state that decides it. Asking waits for nobody."""

    def __init__(
        self, issuer: Issuer, audit: AuditLog, clusters: Sequence[ClusterWatch], clock: Callable[[], float]
    ) -> None:
        self._issuer = issuer
        self._audit = audit
        self._clock = clock
        self._clusters = clusters
        self._stopping = False

    def stop(self) -> None:
        """From now on the server is not ready: it drains."""
        self._stopping = True

    def failures(self) -> tuple[str, ...]:
        """What keeps the server from issuing, a line each; nothing when it is ready.

        One cluster that can be served is enough: others that cannot must not take this server from its callers.
        """
        now, found = self._clock(), []
        if self._stopping:
            found.append("stopping")
        if self._audit.failure:
            found.append(f"audit: {self._audit.failure}")
        if not self._issuer.not_before <= now < self._issuer.not_after:
            found.append("issuer: the chain is not valid now")
        if not any(cluster.ready for cluster in self._clusters):
            found += [line for cluster in self._clusters for line in cluster.failures()]
        return tuple(found)

    def ready(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.failures()
