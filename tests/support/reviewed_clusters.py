"""Real API servers as clusters of a CA: a reviewer with the rights of ca-rbac.yaml, workloads with tokens."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml

from meshpki.ca.config_clusters import ApiServerSettings, Authentication, ClusterSettings, JwksSettings
from meshpki.ca.config_values import Seconds
from support.doc_pages import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from support.kube.api_server import ApiServer

CA_RBAC = ROOT / "deploy" / "kubernetes" / "ca-rbac.yaml"
NAMESPACE, ACCOUNT = "meshpki-system", "meshpki-ca"
_COLLECTIONS = {
    "Namespace": "/api/v1/namespaces",
    "ServiceAccount": "/api/v1/namespaces/{namespace}/serviceaccounts",
    "ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles",
    "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
}
_numbers = itertools.count(1)


def install_reviewer(server: ApiServer) -> None:
    """Create what ca-rbac.yaml says; what is there already stays."""
    for document in yaml.safe_load_all(CA_RBAC.read_text()):
        path = _COLLECTIONS[document["kind"]].format(**document["metadata"])
        status, body = server.request("POST", path, document)
        assert status in {200, 201, 409}, body


def reviewer_token(server: ApiServer, seconds: int = 3600) -> str:
    """A token of the CA's service account, for the API server itself."""
    install_reviewer(server)
    return server.token(NAMESPACE, ACCOUNT, seconds=seconds)


def reviewer_access(server: ApiServer, directory: Path, token: str | None = None) -> ApiServerSettings:
    """The way to that server as the CA's service account."""
    directory.mkdir(parents=True, exist_ok=True)
    token_file = directory / "reviewer-token"
    token_file.write_text(token or reviewer_token(server))
    return ApiServerSettings(url=server.url, ca_file=server.ca_file, token_file=token_file)


def settings(
    server: ApiServer, how: Authentication, directory: Path, *, name: str = "prod", cache: int = 30
) -> ClusterSettings:
    """A cluster of the CA's configuration; its keys come from the server, or from a file in the ages without a path."""
    jwks = None
    if how is not Authentication.TOKENREVIEW:
        jwks = JwksSettings(api_server=True)
        if server.release.minor < 20:
            file = directory / f"{name}-jwks.json"
            directory.mkdir(parents=True, exist_ok=True)
            file.write_bytes(server.jwks())
            jwks = JwksSettings(file=file)
    asked = how is not Authentication.JWKS or (jwks is not None and jwks.api_server)
    return ClusterSettings(
        name,
        server.service_account_issuer,
        jwks,
        authentication=how,
        api_server=reviewer_access(server, directory) if asked else None,
        review_cache=Seconds(cache),
    )


@dataclass(frozen=True)
class Workload:
    """A pod with a service account and a node of its own, in a namespace of its own."""

    server: ApiServer
    namespace: str
    account: str = "web"
    pod: str = "web-0"

    @classmethod
    def make(cls, server: ApiServer, namespace: str = "") -> Workload:
        workload = cls(server, namespace or f"reviewed-{next(_numbers)}")
        server.create_service_account(workload.namespace, workload.account)
        server.create_node(workload.node)
        server.create_pod(workload.namespace, workload.pod, workload.account, workload.node)
        return workload

    @property
    def node(self) -> str:
        return f"node-{self.namespace}"

    def token(self) -> str:
        """As its kubelet would ask for it; each another one."""
        return self.server.token(self.namespace, self.account, audiences=["istio-ca"], pod=self.pod)
