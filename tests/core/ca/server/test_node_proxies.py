"""A node's proxy is granted the identities of the pods beside it; what the cluster cannot say is no verdict."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.reasons import IdentityReason, IdentityRefusedError
from meshpki.ca.server.node_proxies import NodeProxies, ProxiesOfCluster
from meshpki.errors import MachineError, UnavailableError
from meshpki.identity import ServiceAccountRef, SpiffeId
from meshpki.kube.errors import KubeForbiddenError, KubeUnreachableError, Permission, Unreachable
from meshpki.kube.pods import PodFacts
from meshpki.tokens.api_turns import Turns
from meshpki.tokens.caller import BoundObject, Caller
from meshpki.tokens.review_gate import Gate, Places
from support.authority import MESH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
            assert self.wait.wait(60)
        if self.error is not None:
            raise self.error
        return PROXY_POD if (namespace, name) == ("istio-system", "ztunnel-x") else None

    def on_node(self, account: ServiceAccountRef, node: str) -> Sequence[PodFacts]:
        self.asked.append((account, node))
        return [WEB_POD] if (account, node) == (WEB, "node-1") else []


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def turns(at_once: int = 2, waiting: int = 0, *, patience: float = 30.0, clock: Clock | None = None) -> Turns:
    gate = Gate(Places(at_once + waiting), probe_seconds=10)
    return Turns(gate, at_once, patience_seconds=patience, monotonic=clock or Clock())


def of(pods: Pods, taken: Turns | None = None, account: ServiceAccountRef = ZTUNNEL) -> ProxiesOfCluster:
    return ProxiesOfCluster(frozenset({account}), pods, taken or turns())


def proxies(pods: Pods, taken: Turns | None = None) -> NodeProxies:
    return NodeProxies(MESH, {"east": of(pods, taken)})


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
    both = NodeProxies(MESH, {"east": of(here), "west": of(there, account=ServiceAccountRef("a", "b"))})
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


@pytest.mark.parametrize("error", [UnavailableError("away"), MachineError("no credential")], ids=str)
def test_what_cannot_be_told_is_unavailable(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    served = proxies(Pods(error=error), turns(1))
    for _ in range(3):  # and no place is lost
        with pytest.raises(UnavailableError, match=str(error)):
            served.grant(caller(), REQUESTED)
    assert "a cluster does not tell of its pods" in caplog.text


# --- a cluster that is slow or away --------------------------------------------------------------------------------


def test_a_cluster_that_hangs_holds_up_no_other() -> None:
    """Its own callers wait or hear at once; those of the other cluster are served, whatever it does."""
    release = threading.Event()
    hangs, well = Pods(wait=release), Pods()
    served = NodeProxies(MESH, {"east": of(hangs, turns(2)), "west": of(well, turns(2))})
    ends: list[object] = []
    threads = [threading.Thread(target=lambda: ends.append(served.grant(caller(), REQUESTED))) for _ in range(2)]
    for thread in threads:
        thread.start()
    until(lambda: len(hangs.asked) == 2)
    with pytest.raises(UnavailableError, match="as many calls"):
        served.grant(caller(), REQUESTED)
    for _ in range(5):
        assert served.grant(caller("west"), REQUESTED) == REQUESTED
    release.set()
    for thread in threads:
        thread.join(60)
    assert ends == [REQUESTED, REQUESTED]
    assert served.grant(caller(), REQUESTED) == REQUESTED


def test_nobody_waits_for_a_cluster_that_is_known_to_be_away() -> None:
    """One in a while tries, and the first answer lets all in."""
    clock, pods = Clock(), Pods(error=KubeUnreachableError("no answer", why=Unreachable.TIMEOUT))
    clock.now = 100.0
    served = proxies(pods, turns(clock=clock))
    for _ in range(4):
        with pytest.raises(UnavailableError, match="no answer"):
            served.grant(caller(), REQUESTED)
    assert len(pods.asked) == 1
    pods.error = None
    clock.now += 1
    for _ in range(3):
        assert served.grant(caller(), REQUESTED) == REQUESTED


def test_a_right_that_is_missing_for_one_keeps_nobody_else_from_asking() -> None:
    pods = Pods(error=KubeForbiddenError("may not get pods", permission=Permission("get", "pods")))
    served = proxies(pods)
    for _ in range(3):
        with pytest.raises(UnavailableError, match="may not get pods"):
            served.grant(caller(), REQUESTED)
    assert len(pods.asked) == 3


def test_who_may_come_in_waits_for_a_turn_for_a_while_only() -> None:
    release = threading.Event()
    pods = Pods(wait=release)
    served = proxies(pods, turns(1, 1, patience=0.02))
    first = threading.Thread(target=served.grant, args=(caller(), REQUESTED))
    first.start()
    assert pods.came.wait(60)
    with pytest.raises(UnavailableError, match="as many calls"):
        served.grant(caller(), REQUESTED)
    release.set()
    first.join(60)
    assert served.grant(caller(), REQUESTED) == REQUESTED


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came true")
