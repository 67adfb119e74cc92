"""An API server that hangs, whatever it is asked: it takes its own callers' time, and no other cluster's."""

from __future__ import annotations

import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.config_clusters import Authentication, ClusterSettings, JwksSettings
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.reviewer import ReviewTerms
from support.ca_server import CallFailedError, make_config, running
from support.fake_api_server import MAKER, Kubernetes
from support.jwks_server import serving
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.ca_server import RunningCa

PLACES = 64
"""For calls that a CA works on at once, by default; one cluster may take three quarters of them."""
ASKING = 8
FLOOD = PLACES - 4
OTHER = TokenMaker(issuer="https://other.test", slot=1)
PROXY = ServiceAccountRef("default", "web")
BESIDE = "spiffe://mesh.local/ns/shop/sa/db"
PATIENT = partial(ReviewTerms, timeout_seconds=60.0, patience_seconds=60.0)
"""So that nothing is given up while a test looks, however slow the machine: who is refused has found no place."""
KEYS, REVIEWS, PODS = "/openid/v1/jwks", "/tokenreviews", "/pods"


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[Kubernetes]:
    directory = tmp_path / "kubernetes"
    directory.mkdir()
    with serving(directory) as server:
        made = Kubernetes(server, directory)
        yield made
        made.released.set()


@dataclass
class Rig:
    """A CA with the cluster that hangs and one that needs no API server."""

    ca: RunningCa
    pool: ThreadPoolExecutor

    def ask(self, number: int, identity: str = "") -> str:
        """Of the cluster that hangs; `issued`, or the reason."""
        try:
            self.ca.client.sign(MAKER.token(now=time.time(), jti=f"t{number}"), ImpersonatedIdentity=identity)
        except CallFailedError as error:
            return error.reason
        return "issued"

    def in_flight(self) -> int:
        found = re.search(r"^meshpki_ca_in_flight ([0-9]+)", self.ca.http("/metrics")[1], re.MULTILINE)
        assert found
        return int(found[1])

    def others_are_served(self) -> None:
        for number in range(3):
            assert len(self.ca.client.sign(OTHER.token(now=time.time(), jti=f"o{number}"))) == 3


@pytest.fixture
def rig(
    request: pytest.FixtureRequest, tmp_path: Path, kubernetes: Kubernetes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Rig]:
    monkeypatch.setattr("meshpki.ca.server.clusters.ReviewTerms", PATIENT)
    monkeypatch.setattr("meshpki.tokens.jwks_api_server.TIMEOUT_SECONDS", 60.0)
    for bound in ("LATE_SECONDS", "REQUEST_SECONDS"):  # sixty callers share an account and this process
        monkeypatch.setattr(f"meshpki.ca.server.calls.waiting_room.{bound}", 60.0)
    how, kubernetes.hanging = request.param
    jwks = JwksSettings(api_server=True)
    if KEYS not in kubernetes.hanging:
        jwks = JwksSettings(file=tmp_path / "keys.json")
        (tmp_path / "keys.json").write_bytes(MAKER.jwks())
    slow = ClusterSettings(
        "slow", MAKER.issuer, jwks, authentication=how, api_server=kubernetes.settings, node_proxies=(PROXY,)
    )
    (other,) = make_config(tmp_path / "x", OTHER).clusters
    with running(tmp_path, clusters=(slow, other)) as ca, ThreadPoolExecutor(2 * FLOOD) as pool:
        yield Rig(ca, pool)
        kubernetes.released.set()


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came true")


@pytest.mark.parametrize("rig", [(Authentication.HYBRID, ())], indirect=True, ids=["hybrid"])
def test_reviews_that_hang(rig: Rig, kubernetes: Kubernetes) -> None:
    assert rig.ask(0) == "issued"
    kubernetes.hanging = (REVIEWS,)
    calls = [rig.pool.submit(rig.ask, number) for number in range(1, FLOOD)]
    until(lambda: kubernetes.hung.count(f"/apis/authentication.k8s.io/v1{REVIEWS}") >= ASKING)
    rig.others_are_served()
    assert any(not call.done() for call in calls), "they waited until the API server was given up"
    kubernetes.released.set()
    ends = {call.result(60) for call in calls}
    assert ends <= {"issued", "review_busy", "review_unavailable"}
    assert "review_busy" in ends


@pytest.mark.parametrize("rig", [(Authentication.JWKS, (PODS,))], indirect=True, ids=["jwks"])
def test_pods_that_hang(rig: Rig, kubernetes: Kubernetes) -> None:
    calls = [rig.pool.submit(rig.ask, number, BESIDE) for number in range(FLOOD)]
    until(lambda: len(kubernetes.hung) >= ASKING)
    rig.others_are_served()
    assert rig.ask(FLOOD) == "issued", "its own identity needs no API server"
    assert any(not call.done() for call in calls), "they waited until the API server was given up"
    assert {call.result(60) for call in calls if call.done()} <= {"pods_unavailable"}


@pytest.mark.parametrize("rig", [(Authentication.HYBRID, ())], indirect=True, ids=["hybrid"])
def test_reviews_and_pods_that_hang_share_what_they_may_take(rig: Rig, kubernetes: Kubernetes) -> None:
    """A proxy whose token was reviewed a moment ago asks for pods; there is no place left for a review beside that."""
    assert rig.ask(0) == "issued"
    kubernetes.hanging = (PODS, REVIEWS)
    calls = [rig.pool.submit(rig.ask, 0, BESIDE) for _ in range(FLOOD)]
    until(lambda: sum(call.done() for call in calls) >= FLOOD - PLACES * 3 // 4)
    assert rig.ask(1) == "review_busy"
    rig.others_are_served()
    assert any(not call.done() for call in calls), "they waited until the API server was given up"


@pytest.mark.parametrize("rig", [(Authentication.JWKS, (KEYS,))], indirect=True, ids=["jwks"])
def test_keys_that_hang(rig: Rig, kubernetes: Kubernetes) -> None:
    """From the start on, so that every call would have to wait for them."""
    calls = [rig.pool.submit(rig.ask, number) for number in range(FLOOD)]
    until(lambda: rig.in_flight() + sum(call.done() for call in calls) >= FLOOD)
    rig.others_are_served()
    assert kubernetes.hung.count(KEYS) == 1, "they waited until the API server was given up"
    kubernetes.released.set()
    assert {call.result(60) for call in calls} <= {"issued", "keys_unavailable"}
