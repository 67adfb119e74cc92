"""Whoever is granted verify-rbac.yaml, and nothing more, can verify; each right that is missing is named."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshpki.hooks import CaEndpoint
from meshpki.provision.checks import VerifyReport
from meshpki.provision.proof.question import NAME
from support import proofs
from support.doc_pages import ROOT
from support.kube import ApiServer

pytestmark = [pytest.mark.e2e, pytest.mark.kube]
FILE = ROOT / "deploy" / "kubernetes" / "verify-rbac.yaml"
NAMESPACE = "meshpki-verify"
GROUP = "/apis/rbac.authorization.k8s.io/v1"
ROLE = f"{GROUP}/namespaces/{NAMESPACE}/roles/meshpki-verify"
CLUSTER_ROLE = f"{GROUP}/clusterroles/meshpki-verify"
COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "Role": f"{GROUP}/namespaces/{NAMESPACE}/roles",
    "RoleBinding": f"{GROUP}/namespaces/{NAMESPACE}/rolebindings",
    "ClusterRole": f"{GROUP}/clusterroles",
    "ClusterRoleBinding": f"{GROUP}/clusterrolebindings",
}
BOUND_SECONDS = 60.0
USER = "vera"
Rule = dict[str, Any]  # Any: as YAML has it
AGES = ("kube_113", "kube_130", "kube_137")


@dataclass(frozen=True)
class Right:
    """One verb on one resource, as one rule grants it."""

    verb: str
    resource: str

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}"


def documents() -> list[Rule]:
    return list(yaml.safe_load_all(FILE.read_text()))


def rights(kind: str) -> list[Right]:
    (document,) = [one for one in documents() if one["kind"] == kind]
    return [Right(v, r) for rule in document["rules"] for r in rule["resources"] for v in rule["verbs"]]


def without(rules: Sequence[Rule], missing: Right | None) -> list[Rule]:
    """One rule for each right but that."""
    return [
        {**rule, "resources": [resource], "verbs": [verb]}
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        if Right(verb, resource) != missing
    ]


def install(server: ApiServer) -> Path:
    """Apply the file; a kubeconfig of somebody in the group that it is bound to."""
    for document in documents():
        path = COLLECTIONS[document["kind"]]
        status, body = server.request("POST", path, document)
        assert status in {200, 201, 409}, body
    return server.kubeconfig(USER, user=USER, groups=["meshpki-verify"])


def grant(server: ApiServer, missing: Right | None) -> None:
    """Grant all but that, and wait until the server goes by it."""
    for path, kind in ((ROLE, "Role"), (CLUSTER_ROLE, "ClusterRole")):
        (document,) = [one for one in documents() if one["kind"] == kind]
        server._done("PUT", path, {**document, "rules": without(document["rules"], missing)})
    deadline = time.monotonic() + BOUND_SECONDS
    for right in rights("Role") + rights("ClusterRole"):
        while allowed(server, right) != (right != missing):
            assert time.monotonic() < deadline, right
            time.sleep(0.05)


def allowed(server: ApiServer, right: Right) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes: dict[str, str] = {"verb": right.verb, "resource": resource, "subresource": subresource}
    if right.resource == "tokenreviews":
        attributes["group"] = "authentication.k8s.io"
    else:
        attributes["namespace"] = NAMESPACE
    if right.verb != "create" or subresource:
        attributes["name"] = NAME
    spec = {"user": USER, "groups": ["meshpki-verify"], "resourceAttributes": attributes}
    body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
    answer = server._done("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
    status = answer["status"]
    assert isinstance(status, dict)
    return status["allowed"] is True


@pytest.fixture
def ca(kube_137: ApiServer, tmp_path: Path) -> Iterator[CaEndpoint]:
    with proofs.ca_for(tmp_path, proofs.cluster_settings(kube_137, tmp_path)) as endpoint:
        yield endpoint


def verified(server: ApiServer, ca: CaEndpoint, config: Path) -> VerifyReport:
    with proofs.token_controller(server, NAMESPACE):
        return proofs.proven(server, ca, kubeconfig=config, namespace=NAMESPACE, legacy_seconds=60.0)


@pytest.mark.parametrize(
    "age", [pytest.param(age, marks=pytest.mark.xdist_group(age.replace("_", "-"))) for age in AGES]
)
def test_it_is_enough(age: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server: ApiServer = request.getfixturevalue(age)
    config = install(server)
    grant(server, None)
    with proofs.ca_for(tmp_path, proofs.cluster_settings(server, tmp_path)) as ca:
        report = verified(server, ca, config)
    assert report.passed, report.failed
    assert [check.name for check in report.checks if not check.passed] == [
        "another cluster's token is refused",
        "a token whose pod is gone is refused",
    ]
    assert proofs.left(server, NAMESPACE) == []


@pytest.mark.parametrize("missing", rights("Role") + rights("ClusterRole"), ids=str)
def test_each_right_that_is_missing_is_named(kube_137: ApiServer, ca: CaEndpoint, missing: Right) -> None:
    config = install(kube_137)
    # Somebody of that name stands there, so that verify has to look whose it is.
    in_the_way = missing.verb == "get" and missing.resource != "secrets"
    if in_the_way:
        create_namesake(kube_137, missing.resource)
    grant(kube_137, missing)
    try:
        report = verified(kube_137, ca, config)
    finally:
        grant(kube_137, None)
        if in_the_way:
            kube_137.delete(f"/api/v1/namespaces/{NAMESPACE}/{missing.resource}/{NAME}")
    assert len(report.failed) == 1, report.failed
    detail = report.failed[0].detail
    assert f"not allowed to {missing}" in detail
    assert "deploy/kubernetes/verify-rbac.yaml" in detail
    assert proofs.left(kube_137, NAMESPACE) == []


def create_namesake(server: ApiServer, resource: str) -> None:
    if resource == "serviceaccounts":
        server.create_service_account(NAMESPACE, NAME)
        return
    restricted = {
        "serviceAccountName": "default",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [
            {
                "name": "x",
                "image": "x",
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            }
        ],
    }
    if server.request("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default")[0] == 404:
        server.create_service_account(NAMESPACE, "default")
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME}, "spec": restricted}
    server.create(f"/api/v1/namespaces/{NAMESPACE}/pods", body)
