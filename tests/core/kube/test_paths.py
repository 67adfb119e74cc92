"""Paths, and the permissions that requests for them take."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.kube.errors import Permission
from meshpki.kube.paths import path, permission


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (path("pods"), "/api/v1/pods"),
        (path("pods", namespace="a", name="b"), "/api/v1/namespaces/a/pods/b"),
        (path("namespaces", name="a"), "/api/v1/namespaces/a"),
        (path("tokenreviews", group="authentication.k8s.io"), "/apis/authentication.k8s.io/v1/tokenreviews"),
        (
            path("serviceaccounts", namespace="a", name="b", subresource="token"),
            "/api/v1/namespaces/a/serviceaccounts/b/token",
        ),
        (
            path("clusterroles", group="rbac.authorization.k8s.io", name="system:node x"),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:node%20x",
        ),
        (path("leases", group="coordination.k8s.io", version="v1beta1"), "/apis/coordination.k8s.io/v1beta1/leases"),
    ],
)
def test_paths_have_the_apis_shape(made: str, text: str) -> None:
    assert made == text


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a%2fb", "a?b", "a#b", "a\n", "é", "x" * 254])
@pytest.mark.parametrize("part", ["namespace", "name", "group", "subresource"])
def test_no_part_can_change_the_shape(part: str, name: str) -> None:
    with pytest.raises(InvalidValueError):
        path("pods", **{"name": "ok", part: name})


def test_a_subresource_needs_its_object() -> None:
    with pytest.raises(InvalidValueError, match="of no object"):
        path("pods", subresource="log")


@pytest.mark.parametrize(
    ("method", "text", "query", "needed"),
    [
        ("GET", "/version", {}, Permission("get", path="/version")),
        ("GET", "/openid/v1/jwks", {}, Permission("get", path="/openid/v1/jwks")),
        ("GET", "/api/v1", {}, Permission("get", path="/api/v1")),
        ("GET", "/apis", {}, Permission("get", path="/apis")),
        ("GET", "/apis/certificates.k8s.io/v1", {}, Permission("get", path="/apis/certificates.k8s.io/v1")),
        ("GET", "/api/v1/nodes", {}, Permission("list", "nodes")),
        ("GET", "/api/v1/nodes", {"watch": "1"}, Permission("watch", "nodes")),
        ("GET", "/api/v1/nodes/n1", {}, Permission("get", "nodes", name="n1")),
        ("GET", "/api/v1/namespaces", {}, Permission("list", "namespaces")),
        ("GET", "/api/v1/namespaces/a", {}, Permission("get", "namespaces", namespace="a", name="a")),
        ("PUT", "/api/v1/namespaces/a/finalize", {}, Permission("update", "namespaces/finalize", "", "a", "a")),
        ("GET", "/api/v1/namespaces/a/pods", {}, Permission("list", "pods", namespace="a")),
        ("DELETE", "/api/v1/namespaces/a/pods", {}, Permission("deletecollection", "pods", namespace="a")),
        ("DELETE", "/api/v1/namespaces/a/pods/p", {}, Permission("delete", "pods", "", "a", "p")),
        ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d", {}, Permission("patch", "deployments", "apps", "a", "d")),
        (
            "POST",
            "/api/v1/namespaces/a/serviceaccounts/s/token",
            {},
            Permission("create", "serviceaccounts/token", "", "a", "s"),
        ),
        (
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews",
            {},
            Permission("create", "tokenreviews", "authentication.k8s.io"),
        ),
    ],
)
def test_what_a_request_needs(method: str, text: str, query: dict[str, str], needed: Permission) -> None:
    assert permission(method, text, query) == needed


def test_a_permission_says_its_rule_and_its_question() -> None:
    token = Permission("create", "serviceaccounts/token", "", "a", "s")
    assert str(token) == "create serviceaccounts/token in namespace a"
    assert token.rule() == '{apiGroups: [""], resources: ["serviceaccounts/token"], verbs: ["create"]}'
    assert token.kind() == "Role in namespace a"
    assert token.question("me") == "kubectl auth can-i create serviceaccounts --subresource=token -n a --as me"
    jwks = Permission("get", path="/openid/v1/jwks")
    assert jwks.rule() == '{nonResourceURLs: ["/openid/v1/jwks"], verbs: ["get"]}'
    assert jwks.question("it's me; id") == "kubectl auth can-i get /openid/v1/jwks --as 'it'\"'\"'s me; id'"
    review = Permission("create", "tokenreviews", "authentication.k8s.io")
    assert review.question("me") == "kubectl auth can-i create tokenreviews.authentication.k8s.io -A --as me"
    assert review.kind() == "ClusterRole"


_NAME = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda name: ".." not in name)


@settings(deadline=None)
@given(
    group=st.just("") | _NAME, namespace=st.just("") | _NAME, name=_NAME, sub=st.just("") | st.just("status"),
    resource=st.sampled_from(["pods", "secrets", "clusterroles"]),
)  # fmt: skip
def test_a_path_is_understood_as_it_was_made(group: str, namespace: str, name: str, sub: str, resource: str) -> None:
    made = path(resource, group=group, namespace=namespace, name=name, subresource=sub)
    whole = resource + (f"/{sub}" if sub else "")
    assert permission("GET", made) == Permission("get", whole, group, namespace, name)


@settings(deadline=None)
@given(st.text(max_size=40), st.sampled_from(["GET", "POST", "DELETE", "HEAD", "OPTIONS"]))
def test_any_path_has_a_permission(text: str, method: str) -> None:
    assert permission(method, text).verb
