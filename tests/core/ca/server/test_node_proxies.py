"""A node's proxy is granted the identities of the pods beside it; what the cluster cannot say is no verdict."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.reasons import IdentityReason, IdentityRefusedError
from meshpki.ca.server.node_proxies import NodeProxies, ProxiesOfCluster
from meshpki.errors import MachineError, UnavailableError
from meshpki.identity import ServiceAccountRef, SpiffeId
from meshpki.kube.pods import PodFacts
from meshpki.tokens.caller import BoundObject, Caller
from support.authority import MESH

if TYPE_CHECKING:
    from collections.abc import Sequence

ZTUNNEL = ServiceAccountRef("istio-system", "ztunnel")
WEB = ServiceAccountRef("shop", "web")
PROXY_POD = PodFacts("ztunnel-x", "u-z", ZTUNNEL, "node-1", "Running")
WEB_POD = PodFacts("web-1", "u-w", WEB, "node-1", "Running")
REQUESTED = SpiffeId.for_service_account(MESH, WEB)


def caller(cluster: str = "east", account: ServiceAccountRef = ZTUNNEL) -> Caller:
    return Caller(
        cluster, "https://east.example", account, "u-sa", BoundObject("ztunnel-x", "u-z"), None, None, 0, 3600
    )


class Pods:
    """A cluster that knows two pods, and keeps what it was asked."""

    def __init__(self, *, error: Exception | None = None, wait: threading.Event | None = None) -> None:
        self.error, self.wait = error, wait
        self.asked: list[object] = []
        self.came = threading.Event()

    def pod(self, namespace: str, name: str) -> PodFacts | None:
        self.asked.append((namespace, name))
        self.came.set()
        if self.wait is not None:
            assert self.wait.wait(10)
        if self.error is not None:
            raise self.error
        return PROXY_POD if (namespace, name) == ("istio-system", "ztunnel-x") else None

    def on_node(self, account: ServiceAccountRef, node: str) -> Sequence[PodFacts]:
        self.asked.append((account, node))
        return [WEB_POD] if (account, node) == (WEB, "node-1") else []


def proxies(pods: Pods, at_once: int = 2) -> NodeProxies:
    return NodeProxies(MESH, {"east": ProxiesOfCluster(frozenset({ZTUNNEL}), pods)}, at_once=at_once)


def test_granted() -> None:
    pods = Pods()
    assert proxies(pods).grant(caller(), REQUESTED) == REQUESTED
    assert pods.asked == [("istio-system", "ztunnel-x"), (WEB, "node-1")]


@pytest.mark.parametrize(
    ("who", "asked"), [(caller("west"), 0), (caller(account=WEB), 0), (caller(account=ServiceAccountRef("x", "y")), 0)]
)
def test_the_cluster_is_not_asked_about_who_is_not_trusted(who: Caller, asked: int) -> None:
    pods = Pods()
    with pytest.raises(IdentityRefusedError):
        proxies(pods).grant(who, REQUESTED)
    assert len(pods.asked) == asked


def test_a_trusted_account_is_trusted_in_its_own_cluster_alone() -> None:
    here, there = Pods(), Pods()
    both = NodeProxies(
        MESH,
        {
            "east": ProxiesOfCluster(frozenset({ZTUNNEL}), here),
            "west": ProxiesOfCluster(frozenset({ServiceAccountRef("a", "b")}), there),
        },
        at_once=1,
    )
    with pytest.raises(IdentityRefusedError):
        both.grant(caller("west"), REQUESTED)
    assert both.grant(caller("east"), REQUESTED) == REQUESTED
    assert there.asked == []


def test_the_answer_is_one_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    texts = set()
    for who, requested in (
        (caller(), SpiffeId.for_service_account(MESH, ServiceAccountRef("shop", "db"))),
        (caller("west"), SpiffeId.for_service_account(MESH, ServiceAccountRef("shop", "db"))),
    ):
        with pytest.raises(IdentityRefusedError) as caught:
            proxies(Pods()).grant(who, requested)
        assert caught.value.reason is IdentityReason.IMPERSONATION
        texts.add(str(caught.value))
    assert len(texts) == 1
    assert [record.__dict__["why"] for record in caplog.records] == ["no_such_pod_on_the_node", "not_a_trusted_account"]


@pytest.mark.parametrize("error", [UnavailableError("away"), MachineError("no credential")])
def test_what_cannot_be_told_is_unavailable(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    served = proxies(Pods(error=error), at_once=1)
    for _ in range(3):  # and no place is lost
        with pytest.raises(UnavailableError, match=str(error)):
            served.grant(caller(), REQUESTED)
    assert "a cluster does not tell of its pods" in caplog.text


def test_more_than_so_many_do_not_wait() -> None:
    release = threading.Event()
    pods = Pods(wait=release)
    served = proxies(pods, at_once=1)
    first = threading.Thread(target=served.grant, args=(caller(), REQUESTED))
    first.start()
    assert pods.came.wait(10)
    with pytest.raises(UnavailableError, match="as many callers"):
        served.grant(caller(), REQUESTED)
    release.set()
    first.join(10)
    assert served.grant(caller(), REQUESTED) == REQUESTED
