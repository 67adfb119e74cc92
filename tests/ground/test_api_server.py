"""The real API servers that other tests stand on are what they say."""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING

import pytest

from support.kube.plugin import ISSUERS, OLD_ISSUER

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.kube import ApiServer

AUDIENCE = "istio-ca"
AGES = ("kube_113", "kube_130", "kube_137")
every_age = pytest.mark.parametrize(
    "age", [pytest.param(age, marks=pytest.mark.xdist_group(age.replace("_", "-"))) for age in AGES]
)
pytestmark = [pytest.mark.e2e, pytest.mark.kube]


@pytest.fixture
def server(request: pytest.FixtureRequest, age: str) -> ApiServer:
    found: ApiServer = request.getfixturevalue(age)
    return found


@pytest.fixture
def account(server: ApiServer, request: pytest.FixtureRequest) -> str:
    """A service account `web` in a namespace of the test's own; the namespace."""
    return namespace_with_web(server, request.node.name)


def namespace_with_web(server: ApiServer, test: str) -> str:
    namespace = re.sub("[^a-z0-9]+", "-", test.lower()).strip("-")[:50].strip("-")
    server.create_service_account(namespace, "web")
    return namespace


def part(token: str, number: int) -> dict[str, object]:
    encoded = token.split(".")[number]
    found: dict[str, object] = json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    return found


def claims_of(token: str) -> dict[str, object]:
    found = part(token, 1)["kubernetes.io"]
    assert isinstance(found, dict)
    return found


@every_age
def test_it_is_of_its_release(server: ApiServer, age: str) -> None:
    version = json.loads(server.request("GET", "/version")[1])
    assert version["gitVersion"] == server.release
    assert f"kube_{version['major']}{version['minor']}" == age


@every_age
def test_rbac_is_on(server: ApiServer) -> None:
    path = "/api/v1/namespaces/kube-system/secrets"
    assert server.request("GET", path)[0] == 200
    assert server.request("GET", path, token=server.stranger_token)[0] == 403
    assert server.request("GET", path, token="")[0] == 403
    assert server.request("GET", path, token="wrong")[0] == 401


@every_age
def test_a_requested_token_is_reviewed_for_its_audience_only(server: ApiServer, account: str) -> None:
    token = server.token(account, "web", audiences=[AUDIENCE])
    assert part(token, 1)["iss"] == server.service_account_issuer
    assert part(token, 1)["aud"] == [AUDIENCE]
    status, verdict = server.review(token, AUDIENCE)
    assert (status, verdict["authenticated"], verdict["audiences"]) == (201, True, [AUDIENCE])
    for audiences in ((), ("other",)):
        status, verdict = server.review(token, *audiences)
        assert (status, "authenticated" in verdict) == (201, False)
        assert "error" in verdict


@every_age
def test_a_token_without_audience_is_for_the_server_itself(server: ApiServer, account: str) -> None:
    token = server.token(account, "web")
    rules = {"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}
    assert server.request("GET", "/api/v1/nodes", token=token)[0] == 403
    server.allow(f"{account}/web", rules)
    # The authorizer hears of new rules by its own watch.
    assert eventually(lambda: server.request("GET", "/api/v1/nodes", token=token)[0] == 200)


@every_age
def test_a_pods_token_names_the_pod_and_dies_with_it(server: ApiServer, account: str) -> None:
    server.create_node(f"{account}-node")
    uid = server.create_pod(account, "web-1", "web", f"{account}-node")
    token = server.token(account, "web", audiences=[AUDIENCE], pod="web-1")
    assert claims_of(token)["pod"] == {"name": "web-1", "uid": uid}
    assert server.review(token, AUDIENCE)[1]["authenticated"]
    # The server remembers a good token for 10 s whatever happens to the pod: look with one it has not seen.
    unseen = server.token(account, "web", audiences=[AUDIENCE], pod="web-1", seconds=700)
    server.delete_pod(account, "web-1")
    assert eventually(lambda: "authenticated" not in server.review(unseen, AUDIENCE)[1])


@every_age
def test_a_legacy_token_is_taken_by_the_server(server: ApiServer, account: str) -> None:
    token = server.legacy_token(account, "web")
    status, verdict = server.review(token)
    assert (status, verdict["authenticated"]) == (201, True)
    assert server.legacy_token(account, "web") != token


@every_age
def test_the_jwks_verifies_its_tokens(server: ApiServer, account: str) -> None:
    import jwt

    token = server.token(account, "web", audiences=[AUDIENCE])
    (key,) = jwt.PyJWKSet.from_json(server.jwks().decode()).keys
    assert jwt.decode(token, key, ["RS256"], audience=AUDIENCE)["aud"] == [AUDIENCE]
    assert (key.key_id or "") == part(token, 0)["kid"]


@every_age
def test_kubeconfigs_and_client_certificates(server: ApiServer) -> None:
    for path, status in (
        (server.admin_kubeconfig, 200),
        (server.kubeconfig("bearer", token=server.stranger_token), 403),
        (server.kubeconfig("person", user="jo", groups=["devs"]), 403),
        (server.kubeconfig("root", user="jo", groups=["system:masters"]), 200),
    ):
        assert as_client(server, path) == status
        assert path.stat().st_mode & 0o777 == 0o600


def test_the_founding_age_has_neither_kid_nor_discovery(kube_113: ApiServer) -> None:
    namespace = namespace_with_web(kube_113, "founding")
    token = kube_113.token(namespace, "web", audiences=[AUDIENCE])
    assert part(token, 0) == {"alg": "RS256", "kid": ""} == part(kube_113.legacy_token(namespace, "web"), 0)
    assert set(claims_of(token)) == {"namespace", "serviceaccount"}
    assert kube_113.request("GET", "/.well-known/openid-configuration")[0] == 404


def test_the_founding_age_as_it_comes_has_no_token_request(kube_113_without_requests: ApiServer) -> None:
    server = kube_113_without_requests
    namespace = namespace_with_web(server, "bare")
    resources = json.loads(server.request("GET", "/api/v1")[1])["resources"]
    assert "serviceaccounts/token" not in {found["name"] for found in resources}
    assert server.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/web/token", {})[0] == 404
    token = server.legacy_token(namespace, "web")
    assert server.review(token)[1]["authenticated"]
    assert server.review(token, AUDIENCE)[0] == 500


def test_the_founding_age_with_an_issuer_that_is_no_url(kube_113_old_issuer: ApiServer) -> None:
    namespace = namespace_with_web(kube_113_old_issuer, "old-issuer")
    token = kube_113_old_issuer.token(namespace, "web", audiences=[AUDIENCE])
    assert part(token, 1)["iss"] == OLD_ISSUER
    assert kube_113_old_issuer.review(token, AUDIENCE)[1]["authenticated"]


def test_two_issuers_the_first_signs(kube_137_issuers: ApiServer) -> None:
    token = kube_137_issuers.token(namespace_with_web(kube_137_issuers, "issuers"), "web", audiences=[AUDIENCE])
    assert part(token, 1)["iss"] == ISSUERS[0]
    discovery = json.loads(kube_137_issuers.request("GET", "/.well-known/openid-configuration")[1])
    assert discovery["issuer"] == ISSUERS[0]


@pytest.mark.xdist_group("kube-137")
def test_two_clusters_share_an_issuer_and_nothing_else(kube_130: ApiServer, kube_137: ApiServer) -> None:
    assert kube_130.service_account_issuer == kube_137.service_account_issuer
    token = kube_130.token(namespace_with_web(kube_130, "foreign"), "web", audiences=[AUDIENCE])
    assert kube_130.review(token, AUDIENCE)[1]["authenticated"]
    assert "authenticated" not in kube_137.review(token, AUDIENCE)[1]


def eventually(holds: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether it comes to hold within that time."""
    import time

    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def as_client(server: ApiServer, kubeconfig: Path) -> int:
    """What the official client is answered that goes by this file."""
    from kubernetes import client, config

    with config.new_client_from_config(str(kubeconfig)) as api:
        assert api.configuration.host == server.url
        try:
            return int(
                api.call_api("/api/v1/nodes", "GET", auth_settings=["BearerToken"], _preload_content=False).status
            )
        except client.ApiException as error:
            return int(error.status)
