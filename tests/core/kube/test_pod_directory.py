"""What an API server says of pods: of the oldest age and of the newest, and when it may not or does not say."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING, Any

import pytest

from meshpki.identity import ServiceAccountRef
from meshpki.kube import kubeconfig
from meshpki.kube.client import KubeClient
from meshpki.kube.errors import KubeAnswerError, KubeForbiddenError
from meshpki.kube.pod_directory import PodDirectory
from meshpki.kube.pods import PodFacts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube.api_server import ApiServer

_number = itertools.count()


def directory(server: ApiServer) -> Iterator[PodDirectory]:
    with KubeClient(kubeconfig.load(server.admin_kubeconfig, None), timeout_seconds=60) as client:
        yield PodDirectory(client)


def tells_of_pods(server: ApiServer) -> None:
    namespace = f"pods-{next(_number)}-{time.time_ns() % 10**9}"
    node = f"node-{namespace}"
    server.create_node(node)
    server.create_node(f"{node}-other")
    for account in ("web", "db"):
        server.create_service_account(namespace, account)
    uid = server.create_pod(namespace, "web-1", "web", node)
    server.create_pod(namespace, "web-2", "web", f"{node}-other")
    server.create_pod(namespace, "web-3", "web")
    server.create_pod(namespace, "db-1", "db", node)
    web = ServiceAccountRef(namespace, "web")
    for pods in directory(server):
        assert pods.pod(namespace, "web-1") == PodFacts("web-1", uid, web, node, "Pending")
        assert pods.pod(namespace, "web-3") == PodFacts("web-3", pods.pod(namespace, "web-3").uid, web, "", "Pending")  # type: ignore[union-attr]
        assert pods.pod(namespace, "nobody") is None
        assert pods.pod(f"{namespace}-none", "web-1") is None
        assert [pod.name for pod in pods.on_node(web, node)] == ["web-1"]
        assert pods.on_node(ServiceAccountRef(namespace, "other"), node) == ()
        assert pods.on_node(web, "no-such-node") == ()


def test_pods_1_13(kube_113: ApiServer) -> None:
    tells_of_pods(kube_113)


def test_pods_1_37(kube_137: ApiServer) -> None:
    tells_of_pods(kube_137)


def test_who_may_not_look_is_told_what_is_missing(kube_137: ApiServer) -> None:
    nobody = kube_137.kubeconfig("no-pods", user="nobody-in-particular")
    with KubeClient(kubeconfig.load(nobody, None), timeout_seconds=60) as client:
        pods = PodDirectory(client)
        with pytest.raises(KubeForbiddenError, match="get pods"):
            pods.pod("default", "x")
        with pytest.raises(KubeForbiddenError, match="list pods"):
            pods.on_node(ServiceAccountRef("default", "x"), "n")


class _Client:
    """Answers what no API server should."""

    def __init__(self, *documents: dict[str, Any]) -> None:
        self._documents = documents

    def get(self, path: str) -> dict[str, Any]:
        return self._documents[0]

    def list(self, path: str, *, query: dict[str, str], limit: int) -> Any:
        return type("Listing", (), {"items": self._documents})


def document(name: str, account: str, node: str) -> dict[str, Any]:
    return {
        "metadata": {"name": name, "namespace": "shop", "uid": f"u-{name}"},
        "spec": {"serviceAccountName": account, "nodeName": node},
        "status": {"phase": "Running"},
    }


def test_a_selector_that_was_not_heeded_widens_nothing() -> None:
    pods = PodDirectory(_Client(document("a", "web", "n-1"), document("b", "web", "n-2"), document("c", "db", "n-1")))  # type: ignore[arg-type]
    assert [pod.name for pod in pods.on_node(ServiceAccountRef("shop", "web"), "n-1")] == ["a"]


@pytest.mark.parametrize("garbage", [{}, {"metadata": {"name": "a"}}, {"kind": "Status"}], ids=json.dumps)
def test_an_answer_that_is_no_pod(garbage: dict[str, Any]) -> None:
    pods = PodDirectory(_Client(garbage))  # type: ignore[arg-type]
    with pytest.raises(KubeAnswerError):
        pods.pod("shop", "a")
    with pytest.raises(KubeAnswerError):
        pods.on_node(ServiceAccountRef("shop", "web"), "n-1")
