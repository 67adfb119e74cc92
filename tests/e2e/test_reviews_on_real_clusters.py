"""A CA that asks real API servers of three ages about tokens, with no more rights than ca-rbac.yaml gives."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.ca.config_clusters import Authentication, JwksSettings
from meshpki.tokens.reviewer import ReviewTerms
from support.ca_server import CallFailedError, running
from support.reviewed_clusters import (
    ACCOUNT,
    NAMESPACE,
    Workload,
    install_reviewer,
    reviewer_access,
    reviewer_token,
    settings,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.ca.config_clusters import ClusterSettings
    from support.ca_server import RunningCa
    from support.kube.api_server import ApiServer
    from support.kube.pool import ApiServerPool

Code = grpc.StatusCode
THEIR_CACHE_SECONDS = 10.0
"""How long API servers of every age keep a good answer themselves."""
SLACK_SECONDS = 60.0
"""For a busy machine."""
ASKING = (Authentication.TOKENREVIEW, Authentication.HYBRID)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An API server that is well is not given up, however slow the machine."""
    terms = partial(ReviewTerms, timeout_seconds=60.0, patience_seconds=60.0)
    monkeypatch.setattr("meshpki.ca.server.clusters.ReviewTerms", terms)
    monkeypatch.setattr("meshpki.tokens.jwks_api_server.TIMEOUT_SECONDS", 60.0)


@contextmanager
def ca_for(directory: Path, *clusters: ClusterSettings) -> Iterator[RunningCa]:
    with running(directory / "ca", clusters=clusters) as ca:
        until(lambda: ca.http("/readyz")[0] == 200, 60)
        yield ca


def until(condition: Callable[[], bool], seconds: float) -> float:
    """Wait for it; how long that took."""
    began, waiting = time.monotonic(), threading.Event()
    while not condition():
        assert time.monotonic() - began < seconds, "it never came true"
        waiting.wait(0.1)
    return time.monotonic() - began


def outcome(ca: RunningCa, token: str) -> str:
    """`issued`, or the reason."""
    try:
        ca.client.sign(token)
    except CallFailedError as error:
        return error.reason
    return "issued"


def last_record(ca: RunningCa) -> dict[str, object]:
    record = json.loads(ca.config.audit.read_text().splitlines()[-1])
    assert isinstance(record, dict)
    return record


def outcomes_of_all_ways(server: ApiServer, directory: Path, *tokens: str) -> list[list[str]]:
    """What becomes of these tokens, by each way to authenticate."""
    found = []
    for how in Authentication:
        with ca_for(directory / how, settings(server, how, directory)) as ca:
            found.append([outcome(ca, token) for token in tokens])
    return found


# --- each age ------------------------------------------------------------------------------------------------------


def good_and_bad(server: ApiServer, directory: Path) -> None:
    workload = Workload.make(server)
    namespace, account = workload.namespace, workload.account
    tokens = {
        workload.token(): "issued",
        server.token(namespace, account, audiences=["other"], pod=workload.pod): "token_wrong_audience",
        server.token(namespace, account, audiences=["istio-ca"]): "token_not_bound",
        server.token(namespace, account): "token_wrong_audience",
        server.legacy_token(namespace, account): "token_legacy",
    }
    assert outcomes_of_all_ways(server, directory, *tokens) == [list(tokens.values())] * 3


def test_good_and_bad_tokens_1_13(kube_113: ApiServer, tmp_path: Path) -> None:
    good_and_bad(kube_113, tmp_path)


def test_good_and_bad_tokens_1_30(kube_130: ApiServer, tmp_path: Path) -> None:
    good_and_bad(kube_130, tmp_path)


def test_good_and_bad_tokens_1_37(kube_137: ApiServer, tmp_path: Path) -> None:
    good_and_bad(kube_137, tmp_path)


def test_an_issuer_that_is_no_url_1_13(kube_113_old_issuer: ApiServer, tmp_path: Path) -> None:
    """As Istio 1.3 told its readers to set: reviews take it like any other."""
    workload = Workload.make(kube_113_old_issuer)
    assert outcomes_of_all_ways(kube_113_old_issuer, tmp_path, workload.token()) == [["issued"]] * 3


def forged(server: ApiServer, directory: Path) -> None:
    """The payload of one good token under the signature of another: plausible, so it is asked about, and refused."""
    one, other = (Workload.make(server).token().split(".") for _ in range(2))
    assert one[1] != other[1]
    with ca_for(directory, settings(server, Authentication.TOKENREVIEW, directory)) as ca:
        assert outcome(ca, f"{one[0]}.{one[1]}.{other[2]}") == "token_bad_signature"


def test_a_forgery_1_13(kube_113: ApiServer, tmp_path: Path) -> None:
    forged(kube_113, tmp_path)


def test_a_forgery_1_37(kube_137: ApiServer, tmp_path: Path) -> None:
    forged(kube_137, tmp_path)


def deleted(server: ApiServer, directory: Path) -> None:
    """By either way that asks: what is gone is refused within the cache's time and the API server's own."""
    cache = 2
    workloads = {name: Workload.make(server) for name in ("pod", "account", "recreated", "namesake", "kept")}
    tokens = {name: workload.token() for name, workload in workloads.items()}
    clusters = [settings(server, how, directory / how, cache=cache) for how in ASKING]
    with ca_for(directory / "1", clusters[0]) as first, ca_for(directory / "2", clusters[1]) as second:
        for ca in (first, second):
            assert {name: outcome(ca, token) for name, token in tokens.items()} == dict.fromkeys(tokens, "issued")
        delete_all(server, workloads)
        expected = {
            "pod": "token_pod_gone",
            "account": "token_account_gone",
            "recreated": "token_account_recreated",
            "namesake": "token_pod_gone",
            "kept": "issued",
        }
        limit = cache + THEIR_CACHE_SECONDS + SLACK_SECONDS
        for ca in (first, second):
            until(lambda ca=ca: {name: outcome(ca, token) for name, token in tokens.items()} == expected, limit)  # type: ignore[misc]


def delete_all(server: ApiServer, workloads: dict[str, Workload]) -> None:
    pod, account, recreated, namesake = (workloads[name] for name in ("pod", "account", "recreated", "namesake"))
    server.delete_pod(pod.namespace, pod.pod)
    server.delete_service_account(account.namespace, account.account)
    server.delete_service_account(recreated.namespace, recreated.account)
    server.create_service_account(recreated.namespace, recreated.account)
    server.delete_pod(namesake.namespace, namesake.pod)
    server.create_pod(namesake.namespace, namesake.pod, namesake.account, namesake.node)


def test_what_was_deleted_1_13(kube_113: ApiServer, tmp_path: Path) -> None:
    deleted(kube_113, tmp_path)


def test_what_was_deleted_1_30(kube_130: ApiServer, tmp_path: Path) -> None:
    deleted(kube_130, tmp_path)


def test_what_was_deleted_1_37(kube_137: ApiServer, tmp_path: Path) -> None:
    deleted(kube_137, tmp_path)


def node_bound(server: ApiServer, namespace: str, account: str, node: str, uid: str) -> str:
    spec = {
        "audiences": ["istio-ca"],
        "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid},
    }
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
    status, answer = server.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token", body)
    assert status == 201, answer
    return str(json.loads(answer)["status"]["token"])


def test_a_node_that_is_gone_1_37(kube_137: ApiServer, tmp_path: Path) -> None:
    """A token bound to the node falls with it; one bound to a pod falls with the pod, which its cluster removes."""
    workload = Workload.make(kube_137)
    node = f"gone-{workload.namespace}"
    uid = kube_137.create_node(node)
    kube_137.create_pod(workload.namespace, "on-it", workload.account, node)
    of_node = node_bound(kube_137, workload.namespace, workload.account, node, uid)
    of_pod = kube_137.token(workload.namespace, workload.account, audiences=["istio-ca"], pod="on-it")
    cluster = replace(settings(kube_137, Authentication.HYBRID, tmp_path, cache=1), require_pod=False)
    with ca_for(tmp_path, cluster) as ca:
        kube_137.delete_node(node)
        until(lambda: outcome(ca, of_node) == "token_node_gone", 1 + THEIR_CACHE_SECONDS + SLACK_SECONDS)
        assert outcome(ca, of_pod) == "issued", "no API server looks at the node of a pod's token"
        kube_137.delete_pod(workload.namespace, "on-it")  # as the pod garbage collector does
        until(lambda: outcome(ca, of_pod) == "token_pod_gone", 1 + THEIR_CACHE_SECONDS + SLACK_SECONDS)


# --- the reviewer --------------------------------------------------------------------------------------------------


def test_a_reviewer_without_the_right_is_named_and_refuses_nobody(kube_137: ApiServer, tmp_path: Path) -> None:
    workload = Workload.make(kube_137)
    account = f"powerless-{workload.namespace}"
    kube_137.create_service_account(workload.namespace, account)
    access = reviewer_access(kube_137, tmp_path / "x", kube_137.token(workload.namespace, account))
    cluster = replace(settings(kube_137, Authentication.TOKENREVIEW, tmp_path), api_server=access)
    with running(tmp_path / "ca", clusters=(cluster,)) as ca:
        line = "reviews: cluster prod: the reviewer may not create tokenreviews.authentication.k8s.io\n"
        until(lambda: ca.http("/readyz") == (503, line), 60)
        assert outcome(ca, workload.token()) == "review_unavailable"
        rule = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
        kube_137.allow(f"{workload.namespace}/{account}", rule)
        until(lambda: outcome(ca, workload.token()) == "issued", 60)
        until(lambda: ca.http("/readyz")[0] == 200, 60)


def test_a_reviewers_token_that_ended_and_is_rewritten(kube_137: ApiServer, tmp_path: Path) -> None:
    """As istio#28361: it was read once, and a restart was needed."""
    workload = Workload.make(kube_137)
    account = f"reviewer-{workload.namespace}"
    rule = {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    kube_137.create_service_account(workload.namespace, account)
    kube_137.allow(f"{workload.namespace}/{account}", rule)
    access = reviewer_access(kube_137, tmp_path / "x", kube_137.token(workload.namespace, account))
    assert access.token_file is not None
    cluster = replace(settings(kube_137, Authentication.TOKENREVIEW, tmp_path, cache=0), api_server=access)
    with ca_for(tmp_path, cluster) as ca:
        assert outcome(ca, workload.token()) == "issued"
        kube_137.delete_service_account(workload.namespace, account)
        kube_137.create_service_account(workload.namespace, account)
        until(lambda: outcome(ca, workload.token()) == "review_unavailable", THEIR_CACHE_SECONDS + SLACK_SECONDS)
        access.token_file.write_text(kube_137.token(workload.namespace, account))
        until(lambda: outcome(ca, workload.token()) == "issued", 60)


def test_a_reviewer_by_kubeconfig(kube_137: ApiServer, tmp_path: Path) -> None:
    from meshpki.ca.config_clusters import ApiServerSettings

    kubeconfig = kube_137.kubeconfig("ca", token=reviewer_token(kube_137))
    workload = Workload.make(kube_137)
    cluster = replace(
        settings(kube_137, Authentication.HYBRID, tmp_path),
        api_server=ApiServerSettings(kubeconfig=kubeconfig, context="ca"),
    )
    with ca_for(tmp_path, cluster) as ca:
        assert outcome(ca, workload.token()) == "issued"


# --- outages -------------------------------------------------------------------------------------------------------


def all_threads_stand_still(pid: int) -> bool:
    try:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    except OSError:  # one of them has ended
        return False
    return {stat.rpartition(")")[2].split()[0] for stat in stats} == {"T"}


@pytest.mark.xdist_group("kube-137")
def test_an_api_server_that_is_stopped_in_the_middle_of_an_answer(
    api_server: ApiServerPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hangs: connections are open, and nothing comes. A token of another cluster is signed meanwhile."""
    import os
    import signal

    monkeypatch.setattr("meshpki.ca.server.clusters.ReviewTerms", ReviewTerms)  # this one is to be given up
    server = api_server()
    workload = Workload.make(server)
    from support.ca_server import make_config
    from support.tokens import TokenMaker

    other = TokenMaker(issuer="https://other.test", slot=1)
    asked = settings(server, Authentication.TOKENREVIEW, tmp_path, cache=300)
    clusters = (*make_config(tmp_path / "y", other).clusters, asked)
    tokens = [workload.token() for _ in range(4)]
    with ca_for(tmp_path, *clusters) as ca:
        until(lambda: outcome(ca, tokens[0]) == "issued", 60)
        os.kill(server.pid, signal.SIGSTOP)
        until(lambda: all_threads_stand_still(server.pid), 60)
        try:
            with ThreadPoolExecutor(4) as pool:
                calls = [pool.submit(outcome, ca, token) for token in tokens[1:]]
                assert outcome(ca, other.token(now=time.time()).decode()) == "issued"
                assert {call.result(60) for call in calls} == {"review_unavailable"}
            assert outcome(ca, tokens[0]) == "issued", "its verdict is at hand"
        finally:
            os.kill(server.pid, signal.SIGCONT)
        until(lambda: outcome(ca, tokens[1]) == "issued", 60)


@pytest.mark.xdist_group("kube-137")
def test_a_ca_that_starts_while_one_of_its_clusters_is_away(
    kube_137: ApiServer, api_server: ApiServerPool, tmp_path: Path
) -> None:
    """It serves the other, says which one it cannot, and serves that, too, when it is there: no restart."""
    away = api_server(issuers=["https://away.example"])
    workloads = {"well": Workload.make(kube_137), "away": Workload.make(away)}
    tokens = {name: workload.token() for name, workload in workloads.items()}
    clusters = [
        settings(server, Authentication.HYBRID, tmp_path / name, name=name)
        for name, server in (("well", kube_137), ("away", away))
    ]
    away.kill()
    with ca_for(tmp_path, *clusters) as ca:  # ready
        assert outcome(ca, tokens["well"]) == "issued"
        assert outcome(ca, tokens["away"]) == "keys_unavailable"
        metrics = ca.http("/metrics")[1]
        assert 'meshpki_ca_cluster_ready{cluster="well"} 1.0' in metrics
        assert 'meshpki_ca_cluster_ready{cluster="away"} 0.0' in metrics
        away.start()
        until(lambda: outcome(ca, tokens["away"]) == "issued", 60)
        until(lambda: 'meshpki_ca_cluster_ready{cluster="away"} 1.0' in ca.http("/metrics")[1], 60)


# --- two clusters with one issuer ----------------------------------------------------------------------------------


@pytest.mark.xdist_group("kube-137")
@pytest.mark.parametrize("how", [Authentication.JWKS, Authentication.HYBRID])
def test_two_real_clusters_with_one_issuer(
    kube_137: ApiServer, api_server: ApiServerPool, tmp_path: Path, how: Authentication
) -> None:
    """The same issuer, namespace and account in both, as kubeadm makes them: each token is its own cluster's."""
    servers = {"east": kube_137, "west": api_server()}
    assert servers["east"].service_account_issuer == servers["west"].service_account_issuer
    workloads = {name: Workload.make(server) for name, server in servers.items()}
    clusters = [settings(server, how, tmp_path / name, name=name) for name, server in servers.items()]
    with ca_for(tmp_path, *clusters) as ca:
        for name, workload in workloads.items():
            token = workload.token()
            for hint in ([], ["east"], ["west"], ["Kubernetes"], ["east", "west"]):
                metadata = [("authorization", f"Bearer {token}"), *(("clusterid", value) for value in hint)]
                ca.client.request(metadata)
                assert last_record(ca)["cluster"] == name
    for name, other in (("east", "west"), ("west", "east")):
        alone = next(cluster for cluster in clusters if cluster.name == other)
        with ca_for(tmp_path / f"only-{other}", alone) as ca:
            reason = outcome(ca, workloads[name].token())
            assert reason in {"token_unknown_key", "key_not_seen_yet"}, reason


@pytest.mark.xdist_group("kube-137")
def test_one_of_them_asked_about_the_others_tokens_refuses_them(
    kube_137: ApiServer, api_server: ApiServerPool, tmp_path: Path
) -> None:
    """Without keys of ours: the API server itself knows that it did not sign it."""
    west = api_server()
    with ca_for(tmp_path, settings(kube_137, Authentication.TOKENREVIEW, tmp_path)) as ca:
        assert outcome(ca, Workload.make(west).token()) == "token_bad_signature"


@pytest.mark.xdist_group("kube-137")
def test_a_cluster_whose_keys_are_anothers_lets_nobody_in_as_it(
    kube_137: ApiServer, api_server: ApiServerPool, tmp_path: Path
) -> None:
    """The operator put the wrong JWKS file beside a cluster: its API server has the last word."""
    install_reviewer(kube_137)
    jwks = tmp_path / "wrong.json"
    west = api_server()
    jwks.write_bytes(west.jwks())
    cluster = replace(settings(kube_137, Authentication.HYBRID, tmp_path), jwks=JwksSettings(file=jwks))
    with ca_for(tmp_path, cluster) as ca:
        assert outcome(ca, Workload.make(west).token()) == "token_bad_signature"
        assert outcome(ca, Workload.make(kube_137).token()) == "token_unknown_key"
    assert (NAMESPACE, ACCOUNT) == ("meshpki-system", "meshpki-ca")
