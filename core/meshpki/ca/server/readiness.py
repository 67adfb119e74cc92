"""Whether the server can issue now, and if not, why: for /readyz, gRPC health and whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.issuer import Issuer
    from meshpki.tokens.verify import TrustedCluster


class Readiness:
    """The state that decides it. Asking waits for nobody: keys are looked for by `look_for_keys`."""

    def __init__(
        self,
        issuer: Issuer,
        audit: AuditLog,
        clusters: Sequence[TrustedCluster],
        clock: Callable[[], float],
        others: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """`others` says what else keeps the server from issuing, a line each; it waits for nobody."""
        self._issuer = issuer
        self._audit = audit
        self._clock = clock
        self._others = others
        self._without_keys = {cluster.policy.cluster: cluster.keys for cluster in clusters if cluster.keys is not None}
        self._stopping = False

    def look_for_keys(self) -> None:
        """Ask for the keys of every cluster that never had any. May wait for the network."""
        for name, source in list(self._without_keys.items()):
            try:
                source.keys(None, self._clock())
            except UnavailableError:
                continue
            del self._without_keys[name]

    def stop(self) -> None:
        """From now on the server is not ready: it drains."""
        self._stopping = True

    def failures(self) -> tuple[str, ...]:
        """What keeps the server from issuing, a line each; nothing when it is ready."""
        now, found = self._clock(), []
        if self._stopping:
            found.append("stopping")
        if self._audit.failure:
            found.append(f"audit: {self._audit.failure}")
        if not self._issuer.not_before <= now < self._issuer.not_after:
            found.append("issuer: the chain is not valid now")
        found += [f"keys: none yet for cluster {name}" for name in list(self._without_keys)]
        return (*found, *self._others())

    def ready(self) -> bool:
        """Whether there is nothing to complain of."""
        return not self.failures()
