"""With ca-node-impersonation-rbac.yaml the CA sees pods, and nothing else that it did not see before."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from meshpki.identity import ServiceAccountRef
from meshpki.kube import kubeconfig
from meshpki.kube.client import KubeClient
from meshpki.kube.errors import KubeForbiddenError
from meshpki.kube.pod_directory import PodDirectory
from support.can_i import GOLDEN, can_i
from support.doc_pages import ROOT
from support.reviewed_clusters import reviewer_token

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.kube.api_server import ApiServer

FILE = ROOT / "deploy" / "kubernetes" / "ca-node-impersonation-rbac.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
ROLE = f"{RBAC}/clusterroles/meshpki-ca-node-impersonation"
BINDING = f"{RBAC}/clusterrolebindings/meshpki-ca-node-impersonation"
WEB = ServiceAccountRef("default", "web")
BOUND_SECONDS = 60.0


@pytest.fixture
def granted(kube_137: ApiServer) -> Iterator[str]:
    """The file is applied while a test runs; the token of the CA's service account."""
    token = reviewer_token(kube_137)
    role, binding = yaml.safe_load_all(FILE.read_text())
    kube_137.create(f"{RBAC}/clusterroles", role)
    kube_137.create(f"{RBAC}/clusterrolebindings", binding)
    yield token
    kube_137.delete(BINDING)
    kube_137.delete(ROLE)
    settle(kube_137, token, verbs=[])


def settle(server: ApiServer, token: str, *, verbs: list[str]) -> None:
    """Wait until the server goes by it."""
    deadline = time.monotonic() + BOUND_SECONDS
    for path, verb in (("/api/v1/namespaces/default/pods/none", "get"), ("/api/v1/namespaces/default/pods", "list")):
        while (server.request("GET", path, token=token)[0] != 403) != (verb in verbs):
            assert time.monotonic() < deadline, verb
            time.sleep(0.05)


def allow(server: ApiServer, token: str, *verbs: str) -> None:
    role: dict[str, Any] = next(iter(yaml.safe_load_all(FILE.read_text())))  # Any: as YAML has it
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]
    role["rules"][0]["verbs"] = list(verbs)
    status, body = server.request("PUT", ROLE, role)
    assert status == 200, body
    settle(server, token, verbs=list(verbs))


def test_it_is_enough_and_no_more(kube_137: ApiServer, granted: str) -> None:
    settle(kube_137, granted, verbs=["get", "list"])
    with KubeClient(kubeconfig.load(kube_137.kubeconfig("ca", token=granted), None), timeout_seconds=60) as client:
        pods = PodDirectory(client)
        assert pods.pod("default", "none") is None
        assert pods.on_node(WEB, "no-such-node") == ()
    assert "\n".join(can_i(kube_137, granted)) + "\n" == (GOLDEN / "ca-node-impersonation-can-i.txt").read_text()


@pytest.mark.parametrize("missing", ["get", "list"])
def test_each_right_that_is_missing_is_named(kube_137: ApiServer, granted: str, missing: str) -> None:
    allow(kube_137, granted, *{"get", "list"} - {missing})
    with KubeClient(kubeconfig.load(kube_137.kubeconfig("ca", token=granted), None), timeout_seconds=60) as client:
        pods = PodDirectory(client)
        asked: dict[str, Callable[[], object]] = {
            "get": lambda: pods.pod("default", "none"),
            "list": lambda: pods.on_node(WEB, "n"),
        }
        with pytest.raises(KubeForbiddenError) as caught:
            asked[missing]()
        asked[({"get", "list"} - {missing}).pop()]()
    assert f"may not {missing} pods in namespace default" in caught.value.seen
    assert f'verbs: ["{missing}"]' in caught.value.todo
