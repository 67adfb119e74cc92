"""The canary pod: what a kubelet's word means, and that nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from meshpki.errors import UsageError
from meshpki.hooks import Mode
from meshpki.provision.cluster.climb import climb
from meshpki.provision.cluster.ladder import Standing
from meshpki.provision.cluster.question import Canary, Question
from meshpki.provision.cluster.verdict import Answer, Reason, Rung
from support.fake_cluster import FakeAnswer, FakeCluster, away, failure

POD = "/api/v1/namespaces/default/pods/meshpki-detect"
QUICK = Question(canary=Canary("registry.test/pause:1", seconds=0.0))


def waiting(reason: str) -> dict[str, object]:
    return {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}


def event(reason: str, message: str) -> dict[str, object]:
    return {"reason": reason, "message": message}


def container(**state: object) -> dict[str, object]:
    return {"containerStatuses": [{"state": state}]}


RAN = container(running={"startedAt": "2026-11-23T17:00:00Z"})
ENDED = container(terminated={"exitCode": 0, "reason": "Completed"})
LOST = container(terminated={"exitCode": 137, "reason": "ContainerStatusUnknown"})
OFF = "failed to fetch token: the API server does not have TokenRequest endpoints enabled"
OFF_AS_OLD_KUBELETS_SAY = "failed to fetch token: the server could not find the requested resource"
AWAY = 'failed to fetch token: Post "https://10.0.0.1:6443/api/v1/...": dial tcp 10.0.0.1:6443: connection refused'
GONE = 'failed to fetch token: serviceaccounts "meshpki-detect" not found'


@pytest.mark.parametrize(
    ("status", "node", "events", "verdict", "reason"),
    [
        ({"phase": "Running", **RAN}, "n", [], Answer.YES, Reason.RUNNING),
        ({"phase": "Pending", **RAN}, "n", [], Answer.YES, Reason.RUNNING),
        ({"phase": "Succeeded", **ENDED}, "n", [], Answer.YES, Reason.RUNNING),
        ({"phase": "Failed", **ENDED}, "n", [], Answer.YES, Reason.RUNNING),
        ({"phase": "Failed", "reason": "UnexpectedAdmissionError"}, "n", [], Answer.UNKNOWN, Reason.POD_ENDED),
        ({"phase": "Failed", "reason": "Evicted", **LOST}, "n", [], Answer.UNKNOWN, Reason.POD_ENDED),
        ({"phase": "Failed"}, "n", [event("FailedMount", AWAY)], Answer.UNKNOWN, Reason.POD_ENDED),
        ({"phase": "Running"}, "n", [], Answer.UNKNOWN, Reason.TOO_SLOW),
        ({"phase": "Running", "containerStatuses": [{"state": 1}, 2]}, "n", [], Answer.UNKNOWN, Reason.TOO_SLOW),
        (waiting("ErrImagePull"), "n", [], Answer.YES, Reason.MOUNTED),
        (waiting("ContainerCreating"), "n", [event("FailedMount", OFF)], Answer.NO, Reason.FAILED_MOUNT),
        ({"phase": "Pending"}, "n", [event("FailedMount", OFF_AS_OLD_KUBELETS_SAY)], Answer.NO, Reason.FAILED_MOUNT),
        ({"phase": "Pending"}, "n", [event("Pulled", "x"), event("FailedMount", OFF)], Answer.NO, Reason.FAILED_MOUNT),
        (waiting("ContainerCreating"), "n", [event("FailedMount", AWAY)], Answer.UNKNOWN, Reason.MOUNT_HELD_UP),
        ({"phase": "Pending"}, "n", [event("FailedMount", GONE)], Answer.UNKNOWN, Reason.MOUNT_HELD_UP),
        ({"phase": "Pending"}, "", [event("FailedScheduling", "0/3 nodes")], Answer.UNKNOWN, Reason.NO_KUBELET),
        ({}, "", [], Answer.UNKNOWN, Reason.NO_KUBELET),
        (waiting("ContainerCreating"), "n", [], Answer.UNKNOWN, Reason.TOO_SLOW),
    ],
)
def test_what_a_kubelet_says(
    status: dict[str, object], node: str, events: list[dict[str, object]], verdict: Answer, reason: Reason
) -> None:
    cluster = FakeCluster(pod_status=status, node=node, events=events)
    found = climb(cluster, QUICK)[Rung.CANARY]
    assert (found.answer, found.reason) == (verdict, reason)
    assert bool(found.todo) is not (verdict is Answer.YES)
    assert cluster.objects == {}


def test_an_outage_at_a_kubelet_lowers_no_mode() -> None:
    cluster = FakeCluster(node="n", pod_status={"phase": "Pending"}, events=[event("FailedMount", AWAY)])
    found = climb(cluster, QUICK)
    assert Mode.SDS in found.modes
    assert found.standing is Standing.PROVEN
    assert "connection refused" in found[Rung.CANARY].seen


def test_a_pod_that_ended_is_not_waited_for() -> None:
    cluster = FakeCluster(
        node="n", pod_status={"phase": "Failed", "reason": "NodeAffinity", "message": "no such label"}
    )
    found = climb(cluster, Question(canary=Canary(seconds=180)))[Rung.CANARY]
    assert "its container did not run: NodeAffinity: no such label" in found.seen


def test_the_pod_is_restricted_and_its_token_is_for_the_mesh() -> None:
    cluster = FakeCluster(pod_status={"phase": "Running", **RAN})
    climb(cluster, QUICK)
    (body,) = [body for method, path, body in cluster.asked if (method, path) == ("POST", POD.rpartition("/")[0])]
    assert body is not None
    spec, metadata = body["spec"], body["metadata"]
    assert isinstance(spec, dict)
    assert isinstance(metadata, dict)
    (container,) = spec["containers"]
    assert container["image"] == "registry.test/pause:1"
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is False
    (volume,) = spec["volumes"]
    assert volume["projected"]["sources"][0]["serviceAccountToken"]["audience"] == "istio-ca"
    assert metadata["ownerReferences"][0]["kind"] == "ServiceAccount"


@pytest.mark.parametrize(
    ("step", "said", "reason"),
    [
        (
            "POST /api/v1/namespaces/default/pods",
            failure(403, 'pods is forbidden: User "a" cannot create'),
            "forbidden",
        ),
        ("POST /api/v1/namespaces/default/pods", failure(403, "violates PodSecurity restricted"), "not-admitted"),
        ("POST /api/v1/namespaces/default/pods", failure(422, "bad image"), "not-admitted"),
        ("POST /api/v1/namespaces/default/pods", failure(500), "server-error"),
        ("POST /api/v1/namespaces/default/pods", away(), "no-answer"),
        (f"GET {POD}", failure(403, 'User "jo" cannot get it'), "forbidden"),
        (f"GET {POD}", failure(500), "server-error"),
        ("GET /api/v1/namespaces/default/events", failure(403, 'User "jo" cannot list it'), "too-slow"),
    ],
)
def test_what_cannot_be_looked_at_is_no_no(step: str, said: FakeAnswer | BaseException, reason: str) -> None:
    cluster = FakeCluster(node="n", pod_status={"phase": "Pending"}, scripted={step: said})
    if step == f"GET {POD}" and isinstance(said, BaseException):
        return
    found = climb(cluster, QUICK)[Rung.CANARY]
    assert (found.answer, found.reason) == (Answer.UNKNOWN, Reason(reason))
    assert cluster.objects == {}


def test_a_kubelet_is_waited_for() -> None:
    looks: Iterator[dict[str, object]] = iter([{"phase": "Pending"}, {"phase": "Pending"}, {"phase": "Running", **RAN}])
    cluster = FakeCluster(node="n")

    def look(_body: object) -> None:
        cluster.pod_status = next(looks)

    cluster.scripted[f"GET {POD}"] = look
    found = climb(cluster, Question(canary=Canary(seconds=30)))[Rung.CANARY]
    assert found.reason is Reason.RUNNING


@pytest.mark.parametrize("seconds", [-1.0, 181.0, float("nan")])
def test_no_canary_is_waited_for_longer_than_what_a_run_makes_may_stand(seconds: float) -> None:
    with pytest.raises(UsageError, match="for the canary pod"):
        Canary(seconds=seconds)


def test_without_a_token_no_pod_is_made() -> None:
    cluster = FakeCluster(token_requests=False)
    assert climb(cluster, QUICK)[Rung.CANARY].answer is Answer.NOT_ASKED
    assert "POST /api/v1/namespaces/default/pods" not in cluster.requests


def test_a_pod_of_somebody_else_is_left_alone() -> None:
    theirs: dict[str, object] = {"kind": "Pod", "metadata": {"name": "meshpki-detect", "uid": "x"}}
    cluster = FakeCluster(objects={POD: theirs})
    found = climb(cluster, QUICK)[Rung.CANARY]
    assert found.answer is Answer.UNKNOWN
    assert cluster.objects == {POD: theirs}


def test_ctrl_c_while_waiting_leaves_nothing() -> None:
    cluster = FakeCluster(scripted={f"GET {POD}": KeyboardInterrupt()})
    with pytest.raises(KeyboardInterrupt):
        climb(cluster, QUICK)
    assert cluster.objects == {}
