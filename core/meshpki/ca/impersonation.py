"""Acting for the pods of one's own node: ztunnel's rule, as five checks over what the cluster's API server says. Pure.

Off unless the operator names the accounts of a cluster's node proxies. Whatever check fails, the caller reads the one
sentence that it would read if this did not exist: who runs where is nobody's to find out by asking. The reason is for
our log. After istiod's node authorizer (security/pkg/server/ca/node_auth.go), but for two things: the caller's pod is
known by the UID in its verified token, and a pod that has ended speaks for nobody.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshpki.ca.reasons import IdentityReason, IdentityRefusedError
from meshpki.errors import InvalidValueError, RefusedError
from meshpki.identity import ServiceAccountRef, SpiffeId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.identity import TrustDomain
    from meshpki.kube.pods import PodFacts
    from meshpki.tokens.caller import Caller

_ENDED: Final = frozenset({"Succeeded", "Failed"})


class Doubt(StrEnum):
    """Which of the checks failed: for the log, never for the caller."""

    NOT_TRUSTED = "not_a_trusted_account"
    """1: impersonation is off in the caller's cluster, or its account is not on the list."""
    NOT_A_WORKLOAD = "not_a_workload_of_ours"
    """2: what is asked for is no `spiffe://<our trust domain>/ns/<namespace>/sa/<account>`."""
    NO_POD = "caller_not_bound_to_a_pod"
    """3: the token names no pod with a UID."""
    OTHER_POD = "caller_pod_differs"
    """4: no such pod, one of another UID or account, one that has ended or has no node, or not the token's node."""
    NOT_ON_NODE = "no_such_pod_on_the_node"
    """5: no pod of that account that has not ended is on the caller's node."""


class DoubtError(RefusedError):
    """A check that failed. It never reaches a caller: `refused` does."""

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(f"impersonation refused: {doubt}")
        self.doubt = doubt


def workload_of(requested: SpiffeId, trust_domain: TrustDomain) -> ServiceAccountRef:
    """The account that a SPIFFE ID of our trust domain stands for. Raises DoubtError."""
    match requested.segments:
        case ("ns", namespace, "sa", name) if requested.trust_domain == trust_domain:
            try:
                return ServiceAccountRef(namespace, name)
            except InvalidValueError as error:
                raise DoubtError(Doubt.NOT_A_WORKLOAD) from error
        case _:
            raise DoubtError(Doubt.NOT_A_WORKLOAD)


def check_caller(caller: Caller, trusted: frozenset[ServiceAccountRef]) -> str:
    """Demand a trusted account and a pod; the pod's name. Raises DoubtError."""
    if caller.service_account not in trusted:
        raise DoubtError(Doubt.NOT_TRUSTED)
    if caller.pod is None or not caller.pod.uid:
        raise DoubtError(Doubt.NO_POD)
    return caller.pod.name


def check_caller_pod(caller: Caller, pod: PodFacts | None) -> str:
    """Demand that the pod of the token is there, alive and on a node; the node's name. Raises DoubtError."""
    if pod is None or caller.pod is None or pod.uid != caller.pod.uid or pod.account != caller.service_account:
        raise DoubtError(Doubt.OTHER_POD)
    if pod.phase in _ENDED or not pod.node or (caller.node is not None and caller.node.name != pod.node):
        raise DoubtError(Doubt.OTHER_POD)
    return pod.node


def check_workload(wanted: ServiceAccountRef, node: str, pods: Sequence[PodFacts]) -> None:
    """Demand a pod of that account on that node; what was asked for is checked again. Raises DoubtError."""
    if not any(pod.account == wanted and pod.node == node and pod.phase not in _ENDED for pod in pods):
        raise DoubtError(Doubt.NOT_ON_NODE)


def refused(own: SpiffeId, requested: SpiffeId) -> IdentityRefusedError:
    """The one answer to every doubt."""
    return IdentityRefusedError(
        IdentityReason.IMPERSONATION,
        f"{own} asked for the identity {requested}",
        wanted="its own identity, or none named",
        todo="let the workload ask with its own token, or see the CA's log for why this caller may not act for it",
    )
