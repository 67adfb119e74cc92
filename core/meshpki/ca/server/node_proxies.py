"""Proxies that act for the pods of their node: asks the cluster, lets `ca.impersonation` judge, tells the log why."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshpki.ca import impersonation
from meshpki.ca.impersonation import Doubt, DoubtError
from meshpki.errors import MeshpkiError, UnavailableError
from meshpki.identity import SpiffeId
from meshpki.tokens.api_turns import cause_of
from meshpki.tokens.review import Cause, Unjudged
from meshpki.tokens.review_gate import FULL

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki.identity import ServiceAccountRef, TrustDomain
    from meshpki.kube.pods import PodFacts
    from meshpki.tokens.api_turns import Turns
    from meshpki.tokens.caller import Caller

_LOG = logging.getLogger(__name__)


class Pods(Protocol):
    """`meshpki.kube.pod_directory.PodDirectory`."""

    def pod(self, namespace: str, name: str) -> PodFacts | None:
        """The pod of that name, if there is one. Raises MeshpkiError when that cannot be told now."""
        ...

    def on_node(self, account: ServiceAccountRef, node: str) -> Sequence[PodFacts]:
        """The pods of that account on that node. Raises MeshpkiError when that cannot be told now."""
        ...


@dataclass(frozen=True, slots=True)
class ProxiesOfCluster:
    """The accounts that one cluster's operator trusts with this, and who knows that cluster's pods."""

    accounts: frozenset[ServiceAccountRef]
    pods: Pods
    turns: Turns
    """Of those who ask for pods: each cluster's own, so that one that is slow holds up no other."""


class NodeProxies:
    """Grants identities to node proxies. Safe for threads; may wait for a cluster's API server, each call twice."""

    def __init__(self, trust_domain: TrustDomain, clusters: Mapping[str, ProxiesOfCluster]) -> None:
        """`clusters` by name; one not in it has none."""
        self._trust_domain = trust_domain
        self._clusters = clusters

    def grant(self, caller: Caller, requested: SpiffeId) -> SpiffeId:
        """The identity that was asked for, if every check holds.

        Raises IdentityRefusedError, the same for each reason, and UnavailableError when the cluster could not be
        asked: never one for the other.
        """
        try:
            account = self._judge(caller, requested)
        except DoubtError as error:
            own = SpiffeId.for_service_account(self._trust_domain, caller.service_account)
            _LOG.info(
                "impersonation refused",
                extra={"cluster": caller.cluster, "by": str(own), "of": str(requested), "why": error.doubt},
            )
            raise impersonation.refused(own, requested) from error
        return SpiffeId.for_service_account(self._trust_domain, account)

    def _judge(self, caller: Caller, requested: SpiffeId) -> ServiceAccountRef:
        cluster = self._clusters.get(caller.cluster)
        if cluster is None:
            raise DoubtError(Doubt.NOT_TRUSTED)
        name = impersonation.check_caller(caller, cluster.accounts)
        account = impersonation.workload_of(requested, self._trust_domain)
        away = cluster.turns.enter()
        if away is not None:
            raise _unavailable(away)
        try:
            with cluster.turns.turn() as mine:
                if not mine:
                    raise _unavailable(FULL)
                _check_pods(cluster, caller, name, account)
        finally:
            cluster.turns.leave()
        return account


def _check_pods(cluster: ProxiesOfCluster, caller: Caller, name: str, account: ServiceAccountRef) -> None:
    """Ask for the caller's pod, then for those beside it. Raises DoubtError, UnavailableError."""
    try:
        node = impersonation.check_caller_pod(caller, cluster.pods.pod(caller.service_account.namespace, name))
        impersonation.check_workload(account, node, cluster.pods.on_node(account, node))
    except DoubtError:
        cluster.turns.landed(None)
        raise
    except MeshpkiError as error:
        _LOG.warning("a cluster does not tell of its pods", extra={"cluster": caller.cluster, "why": str(error)})
        found = Unjudged(cause_of(error), error.seen, error.todo)
        # A right may be there for one namespace and not for another: that keeps nobody else from asking.
        cluster.turns.landed(None if found.cause is Cause.FORBIDDEN else found)
        raise _unavailable(found) from error
    cluster.turns.landed(None)


def _unavailable(found: Unjudged) -> UnavailableError:
    return UnavailableError(found.why, todo=found.todo)
