"""A proxy asks for the identities of pods on its node as ztunnel does, of a CA that looks at a real API server."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest
import yaml
from cryptography import x509

from meshpki.ca.config_clusters import Authentication, JwksSettings
from meshpki.identity import ServiceAccountRef
from meshpki.tokens.reviewer import ReviewTerms
from support.ca_server import CallFailedError, running
from support.doc_pages import ROOT
from support.reviewed_clusters import install_reviewer, reviewer_access, reviewer_token, settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki.ca.config_clusters import ClusterSettings
    from support.ca_server import RunningCa
    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

Code = grpc.StatusCode
RBAC = ROOT / "deploy" / "kubernetes" / "ca-node-impersonation-rbac.yaml"


GROUP = "/apis/rbac.authorization.k8s.io/v1"


def grant_rights(server: ApiServer) -> None:
    install_reviewer(server)
    for document in yaml.safe_load_all(RBAC.read_text()):
        status, body = server.request("POST", f"{GROUP}/{document['kind'].lower()}s", document)
        assert status in {201, 409}, body
    token = reviewer_token(server)  # RBAC is read from a cache
    until(lambda: server.request("GET", "/api/v1/namespaces/default/pods", token=token)[0] == 200)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that is well is not given up, however slow the machine."""
    terms = partial(ReviewTerms, timeout_seconds=20.0, patience_seconds=20.0)
    monkeypatch.setattr("meshpki.ca.server.clusters.ReviewTerms", terms)
    monkeypatch.setattr("meshpki.tokens.jwks_api_server.TIMEOUT_SECONDS", 60.0)


@contextmanager
def rights(server: ApiServer) -> Iterator[None]:
    """For a while: other tests of the same server look at what the CA may do without them."""
    grant_rights(server)
    try:
        yield
    finally:
        for document in yaml.safe_load_all(RBAC.read_text()):
            server.delete(f"{GROUP}/{document['kind'].lower()}s/{document['metadata']['name']}")
        token = reviewer_token(server)
        until(lambda: server.request("GET", "/api/v1/namespaces/default/pods", token=token)[0] == 403)


@dataclass(frozen=True)
class Mesh:
    """Two nodes: a proxy and `web` on one, `db` on the other."""

    server: ApiServer
    name: str

    @classmethod
    def make(cls, server: ApiServer) -> Mesh:
        mesh = cls(server, f"ambient-{time.time_ns() % 10**10}")
        for node in (mesh.node, mesh.other_node):
            server.create_node(node)
        for account in ("ztunnel", "web", "db"):
            server.create_service_account(mesh.name, account)
        server.create_pod(mesh.name, "ztunnel-0", "ztunnel", mesh.node)
        server.create_pod(mesh.name, "web-0", "web", mesh.node)
        server.create_pod(mesh.name, "db-0", "db", mesh.other_node)
        return mesh

    @property
    def node(self) -> str:
        return f"node-{self.name}"

    @property
    def other_node(self) -> str:
        return f"other-{self.name}"

    @property
    def proxy(self) -> ServiceAccountRef:
        return ServiceAccountRef(self.name, "ztunnel")

    def identity(self, account: str) -> str:
        return f"spiffe://mesh.local/ns/{self.name}/sa/{account}"

    def token(self, account: str = "ztunnel", pod: str = "ztunnel-0") -> str:
        return self.server.token(self.name, account, audiences=["istio-ca"], pod=pod)


def granted(ca: RunningCa, token: str, identity: str) -> str:
    """The SPIFFE ID in the certificate."""
    chain = ca.client.sign(token, ImpersonatedIdentity=identity)
    names = x509.load_pem_x509_certificate(chain[0].encode()).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    (uri,) = names.value.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


def refused(ca: RunningCa, token: str, identity: str) -> tuple[Code, str]:
    with pytest.raises(CallFailedError) as caught:
        ca.client.sign(token, ImpersonatedIdentity=identity)
    return caught.value.code, caught.value.reason


REFUSED = (Code.PERMISSION_DENIED, "identity_impersonation")


def cluster_of(
    mesh: Mesh, directory: Path, *proxies: ServiceAccountRef, name: str = "prod", jwks: JwksSettings | None = None
) -> ClusterSettings:
    cluster = settings(mesh.server, Authentication.JWKS, directory, name=name)
    access = cluster.api_server or reviewer_access(mesh.server, directory)
    asked = access if proxies else cluster.api_server
    return replace(cluster, api_server=asked, node_proxies=proxies, jwks=jwks or cluster.jwks)


def serving(mesh: Mesh, directory: Path, *proxies: ServiceAccountRef) -> Iterator[RunningCa]:
    with running(directory / "ca", clusters=(cluster_of(mesh, directory, *proxies),)) as ca:
        until(lambda: ca.http("/readyz")[0] == 200)
        yield ca


def acts_for_its_node(server: ApiServer, directory: Path) -> None:
    mesh = Mesh.make(server)
    for ca in serving(mesh, directory, mesh.proxy):
        token = mesh.token()
        assert granted(ca, token, mesh.identity("web")) == mesh.identity("web")
        assert granted(ca, token, mesh.identity("ztunnel")) == mesh.identity("ztunnel")
        record = json.loads(ca.config.audit.read_text().splitlines()[-2])
        assert (record["service_account"], record["spiffe_id"]) == ("ztunnel", mesh.identity("web"))

        assert refused(ca, token, mesh.identity("db")) == REFUSED  # on the other node
        assert refused(ca, token, mesh.identity("nobody")) == REFUSED
        assert refused(ca, token, mesh.identity("web").replace("mesh.local", "other.local")) == REFUSED
        assert refused(ca, mesh.token("web", "web-0"), mesh.identity("ztunnel")) == REFUSED  # not trusted
        assert granted(ca, mesh.token("web", "web-0"), "") == mesh.identity("web")

        server.delete_pod(mesh.name, "web-0")
        assert refused(ca, token, mesh.identity("web")) == REFUSED  # at once: nothing is kept
        server.create_pod(mesh.name, "web-1", "web", mesh.node)
        assert granted(ca, token, mesh.identity("web")) == mesh.identity("web")

        server.delete_pod(mesh.name, "ztunnel-0")
        server.create_pod(mesh.name, "ztunnel-0", "ztunnel", mesh.node)  # a namesake: the token is not of this one
        assert refused(ca, token, mesh.identity("web")) == REFUSED
        assert granted(ca, mesh.token(), mesh.identity("web")) == mesh.identity("web")


def test_acts_for_its_node_1_13(kube_113: ApiServer, tmp_path: Path) -> None:
    with rights(kube_113):
        acts_for_its_node(kube_113, tmp_path)


def test_acts_for_its_node_1_37(kube_137: ApiServer, tmp_path: Path) -> None:
    with rights(kube_137):
        acts_for_its_node(kube_137, tmp_path)


def test_off_by_default(kube_137: ApiServer, tmp_path: Path) -> None:
    mesh = Mesh.make(kube_137)
    for ca in serving(mesh, tmp_path):
        assert refused(ca, mesh.token(), mesh.identity("web")) == REFUSED


def test_a_missing_right_is_no_verdict_and_the_log_names_it(
    api_server: ApiServerPool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = api_server()
    install_reviewer(server)  # without the right to see pods
    mesh = Mesh.make(server)
    for ca in serving(mesh, tmp_path, mesh.proxy):
        assert refused(ca, mesh.token(), mesh.identity("web")) == (Code.UNAVAILABLE, "pods_unavailable")
        assert any("get pods" in str(record.__dict__.get("why")) for record in caplog.records)
        grant_rights(server)
        assert granted(ca, mesh.token(), mesh.identity("web")) == mesh.identity("web")


def test_an_api_server_that_is_away_is_no_verdict(api_server: ApiServerPool, tmp_path: Path) -> None:
    server = api_server()
    grant_rights(server)
    mesh = Mesh.make(server)
    for ca in serving(mesh, tmp_path, mesh.proxy):
        token = mesh.token()
        assert granted(ca, token, mesh.identity("web")) == mesh.identity("web")
        server.kill()
        assert refused(ca, token, mesh.identity("web")) == (Code.UNAVAILABLE, "pods_unavailable")
        assert granted(ca, token, "") == mesh.identity("ztunnel")  # its own needs nobody
        server.start()
        until(lambda: issued(ca, token, mesh.identity("web")))  # noqa: B023  # one round


@pytest.mark.xdist_group("kube-137")
def test_an_api_server_that_is_stopped_holds_up_no_other_clusters_proxies(
    kube_137: ApiServer, api_server: ApiServerPool, tmp_path: Path
) -> None:
    """Twice as many of its proxies as a CA has threads wait for it or are sent away; the others' go on."""
    servers = {"well": kube_137, "stopped": api_server(issuers=["https://stopped.example"])}
    meshes, clusters = {}, []
    grant_rights(servers["stopped"])
    for name, server in servers.items():
        mesh = meshes[name] = Mesh.make(server)
        jwks = tmp_path / f"{name}.json"
        jwks.write_bytes(server.jwks())
        clusters.append(cluster_of(mesh, tmp_path / name, mesh.proxy, name=name, jwks=JwksSettings(file=jwks)))
    tokens = {name: mesh.token() for name, mesh in meshes.items()}
    well, stopped = meshes["well"].identity("web"), meshes["stopped"].identity("web")
    with rights(kube_137), running(tmp_path / "ca", clusters=tuple(clusters)) as ca, ThreadPoolExecutor(32) as pool:
        assert granted(ca, tokens["stopped"], stopped) == stopped
        os.kill(servers["stopped"].pid, signal.SIGSTOP)
        try:
            calls = [pool.submit(refused, ca, tokens["stopped"], stopped) for _ in range(32)]
            # Those for whom there is no place hear it at once; with them every place is taken.
            until(lambda: sum(call.done() for call in calls) >= 20)
            for _ in range(5):
                assert granted(ca, tokens["well"], well) == well
            assert any(not call.done() for call in calls), "they waited until the API server was given up"
            assert {call.result(120) for call in calls} == {(Code.UNAVAILABLE, "pods_unavailable")}
        finally:
            os.kill(servers["stopped"].pid, signal.SIGCONT)
        until(lambda: issued(ca, tokens["stopped"], stopped))


def issued(ca: RunningCa, token: str, identity: str) -> bool:
    try:
        return granted(ca, token, identity) == identity
    except CallFailedError:
        return False


def until(condition: Callable[[], bool]) -> None:
    deadline, waiting = time.monotonic() + 60, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        waiting.wait(0.05)
