"""Five checks stand between a node's proxy and the identity of a pod; each of them alone keeps it out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca import impersonation
from meshpki.ca.impersonation import Doubt, DoubtError
from meshpki.ca.reasons import IdentityReason
from meshpki.identity import ServiceAccountRef, SpiffeId
from meshpki.kube.pods import PodFacts
from meshpki.tokens.caller import BoundObject, Caller
from support.authority import MESH

ZTUNNEL = ServiceAccountRef("istio-system", "ztunnel")
WEB = ServiceAccountRef("shop", "web")
TRUSTED = frozenset({ZTUNNEL})
PROXY_POD = PodFacts("ztunnel-x", "u-z", ZTUNNEL, "node-1", "Running")
WEB_POD = PodFacts("web-1", "u-w", WEB, "node-1", "Running")
CALLER = Caller(
    cluster="east",
    issuer="https://east.example",
    service_account=ZTUNNEL,
    service_account_uid="u-sa",
    pod=BoundObject("ztunnel-x", "u-z"),
    node=BoundObject("node-1", "u-n"),
    token_id=None,
    issued_at=0,
    expires_at=3600,
)


def judged(
    caller: Caller = CALLER,
    requested: str = "spiffe://mesh.local/ns/shop/sa/web",
    own_pod: PodFacts | None = PROXY_POD,
    pods: tuple[PodFacts, ...] = (WEB_POD,),
    trusted: frozenset[ServiceAccountRef] = TRUSTED,
) -> ServiceAccountRef:
    wanted = impersonation.workload_of(SpiffeId.parse(requested), MESH)
    impersonation.check_caller(caller, trusted)
    impersonation.check_workload(wanted, impersonation.check_caller_pod(caller, own_pod), pods)
    return wanted


def test_a_node_proxy_acts_for_a_pod_of_its_node() -> None:
    assert judged() == WEB


def test_a_token_of_an_age_without_node_claims_rests_on_the_pod() -> None:
    assert judged(replace(CALLER, node=None)) == WEB


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown", ""])
def test_a_pod_that_has_not_ended_is_one(phase: str) -> None:
    assert judged(pods=(replace(WEB_POD, phase=phase),)) == WEB


REFUSED = {
    "off": (Doubt.NOT_TRUSTED, {"trusted": frozenset()}),
    "another account": (Doubt.NOT_TRUSTED, {"caller": replace(CALLER, service_account=WEB)}),
    "a namesake elsewhere": (
        Doubt.NOT_TRUSTED,
        {"caller": replace(CALLER, service_account=ServiceAccountRef("default", "ztunnel"))},
    ),
    "another trust domain": (Doubt.NOT_A_WORKLOAD, {"requested": "spiffe://other.local/ns/shop/sa/web"}),
    "another form": (Doubt.NOT_A_WORKLOAD, {"requested": "spiffe://mesh.local/shop/web"}),
    "longer": (Doubt.NOT_A_WORKLOAD, {"requested": "spiffe://mesh.local/ns/shop/sa/web/x"}),
    "no DNS label": (Doubt.NOT_A_WORKLOAD, {"requested": "spiffe://mesh.local/ns/Shop/sa/web"}),
    "no pod in the token": (Doubt.NO_POD, {"caller": replace(CALLER, pod=None)}),
    "no UID in the token": (Doubt.NO_POD, {"caller": replace(CALLER, pod=BoundObject("ztunnel-x", ""))}),
    "its pod is gone": (Doubt.OTHER_POD, {"own_pod": None}),
    "its pod was made anew": (Doubt.OTHER_POD, {"own_pod": replace(PROXY_POD, uid="u-z2")}),
    "its pod runs as another": (Doubt.OTHER_POD, {"own_pod": replace(PROXY_POD, account=WEB)}),
    "its pod failed": (Doubt.OTHER_POD, {"own_pod": replace(PROXY_POD, phase="Failed")}),
    "its pod has no node": (Doubt.OTHER_POD, {"own_pod": replace(PROXY_POD, node="")}),
    "its token is of another node": (Doubt.OTHER_POD, {"own_pod": replace(PROXY_POD, node="node-2")}),
    "nobody there": (Doubt.NOT_ON_NODE, {"pods": ()}),
    "on another node": (Doubt.NOT_ON_NODE, {"pods": (replace(WEB_POD, node="node-2"),)}),
    "of another account": (Doubt.NOT_ON_NODE, {"pods": (replace(WEB_POD, account=ServiceAccountRef("shop", "db")),)}),
    "of another namespace": (Doubt.NOT_ON_NODE, {"pods": (replace(WEB_POD, account=ServiceAccountRef("x", "web")),)}),
    "ended": (Doubt.NOT_ON_NODE, {"pods": (replace(WEB_POD, phase="Succeeded"), replace(WEB_POD, phase="Failed"))}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_each_check_alone_keeps_it_out(case: str) -> None:
    doubt, changes = REFUSED[case]
    with pytest.raises(DoubtError) as caught:
        judged(**changes)  # type: ignore[arg-type]  # each case changes arguments of its own
    assert caught.value.doubt is doubt


@given(st.text(alphabet="abn/-.:ABspiffe", max_size=40))
def test_only_our_own_workloads_can_be_meant(path: str) -> None:
    try:
        requested = SpiffeId.parse(f"spiffe://mesh.local/{path}")
        account = impersonation.workload_of(requested, MESH)
    except (ValueError, DoubtError):
        return
    assert SpiffeId.for_service_account(MESH, account) == requested


def test_every_doubt_gets_one_answer_that_tells_nothing() -> None:
    own, requested = (SpiffeId.for_service_account(MESH, one) for one in (ZTUNNEL, WEB))
    answer = impersonation.refused(own, requested)
    assert answer.reason is IdentityReason.IMPERSONATION
    assert not any(doubt.value in str(answer) for doubt in Doubt)
