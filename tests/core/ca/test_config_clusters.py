"""What the configuration says of clusters: by whose word tokens are believed, and the way to API servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshpki.ca.config import parse
from meshpki.ca.config_clusters import Authentication, ClusterSettings
from meshpki.errors import UsageError

BASE = Path("/etc/meshpki")
HEAD = """\
trust_domain: mesh.local
listen: 127.0.0.1:0
http: 127.0.0.1:0
server_names: [localhost]
issuer: {certificate: a, key: b}
audit: c
clusters:
"""
SERVER = "api_server: {url: 'https://10.0.0.1:6443', ca_file: prod-ca.pem, token_file: reviewer-token}"


def clusters(*lines: str) -> tuple[ClusterSettings, ...]:
    text = HEAD + "".join(
        f"  - {{name: c{number}, issuer: https://c{number}.test, {line}}}\n" for number, line in enumerate(lines)
    )
    return parse(text.encode(), base=BASE, name="ca.yaml").clusters


def cluster(line: str) -> ClusterSettings:
    return clusters(line)[0]


def fault(line: str) -> str:
    with pytest.raises(UsageError) as caught:
        clusters(line)
    return str(caught.value)


def test_keys_alone_are_the_default() -> None:
    found = cluster("jwks: {file: a.json}")
    assert (found.authentication, found.api_server, found.review_cache) == (Authentication.JWKS, None, 30)


def test_tokenreview() -> None:
    found = cluster(f"authentication: tokenreview, {SERVER}, review_cache: 10s")
    assert (found.authentication, found.jwks, found.review_cache) == (Authentication.TOKENREVIEW, None, 10)
    server = found.api_server
    assert server is not None
    assert (server.url, server.in_cluster, server.kubeconfig) == ("https://10.0.0.1:6443", False, None)
    assert (server.ca_file, server.token_file) == (BASE / "prod-ca.pem", BASE / "reviewer-token")


def test_hybrid_with_keys_from_the_api_server() -> None:
    found = cluster("authentication: hybrid, jwks: {api_server: true}, api_server: {in_cluster: true}")
    assert found.jwks is not None
    assert found.api_server is not None
    assert (found.jwks.api_server, found.api_server.in_cluster) == (True, True)


def test_keys_alone_from_the_api_server() -> None:
    assert cluster(f"jwks: {{api_server: true}}, {SERVER}").authentication is Authentication.JWKS


def test_a_kubeconfig() -> None:
    line = "api_server: {kubeconfig: k/config, context: prod, allow_exec: [/usr/bin/aws]}"
    server = cluster(f"authentication: tokenreview, {line}").api_server
    assert server is not None
    assert (server.kubeconfig, server.context) == (BASE / "k/config", "prod")
    assert server.allow_exec == (Path("/usr/bin/aws"),)
    plain = cluster("authentication: tokenreview, api_server: {kubeconfig: k}").api_server
    assert plain is not None
    assert (plain.context, plain.allow_exec) == (None, ())


def test_clusters_may_share_an_issuer() -> None:
    text = HEAD + "".join(f"  - {{name: {name}, issuer: same, jwks: {{file: {name}}}}}\n" for name in ("a", "b"))
    found = parse(text.encode(), base=BASE, name="ca.yaml").clusters
    assert [each.issuer for each in found] == ["same", "same"]


IN_CLUSTER = "api_server: {in_cluster: true}"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("audiences: [x]", "without `jwks`"),
        ("authentication: hybrid, " + IN_CLUSTER, "without `jwks`"),
        ("authentication: tokenreview", "without `api_server`"),
        ("authentication: hybrid, jwks: {file: a}", "without `api_server`"),
        ("jwks: {api_server: true}", "without `api_server`"),
        ("authentication: tokenreview, jwks: {file: a}, " + IN_CLUSTER, "and `jwks`"),
        ("jwks: {file: a}, " + IN_CLUSTER, "say `authentication: hybrid`"),
        ("authentication: oidc, jwks: {file: a}", "'oidc'; wanted: jwks, tokenreview, hybrid @ ca.yaml.clusters[0]"),
        ("authentication: [jwks], jwks: {file: a}", "wanted: a text"),
        ("authentication: Hybrid, jwks: {file: a}", "'Hybrid'"),
        ("jwks: {file: a, api_server: true}, " + IN_CLUSTER, "not exactly one source"),
        ("jwks: {api_server: false}", "not exactly one source"),
        ("jwks: {api_server: true, ca_file: b}, " + IN_CLUSTER, "not exactly one source"),
        ("authentication: tokenreview, review_cache: 11m, " + IN_CLUSTER, "a review_cache of 660 s"),
        ("authentication: tokenreview, review_cache: 30, " + IN_CLUSTER, "duration '30'"),
        *(
            (f"authentication: tokenreview, api_server: {{{server}}}", "exactly one way")
            for server in (
                "",
                "in_cluster: false",
                "in_cluster: true, kubeconfig: k",
                "in_cluster: true, url: https://a",
                "url: https://a",
                "url: https://a, ca_file: b",
                "url: https://a, token_file: b",
                "ca_file: a, token_file: b",
                "context: prod",
                "in_cluster: true, context: prod",
                "in_cluster: true, allow_exec: [/bin/x]",
            )
        ),
        ("authentication: tokenreview, api_server: {token: secret}", "no such key: token"),
        ("authentication: tokenreview, api_server: {insecure: true, in_cluster: true}", "no such key: insecure"),
        ("authentication: tokenreview, api_server: {kubeconfig: k, allow_exec: /bin/x}", "wanted: a list"),
    ],
)
def test_every_fault_is_named(line: str, said: str) -> None:
    assert said in fault(line)


def test_node_proxies_go_with_any_authentication_and_an_api_server() -> None:
    assert cluster("jwks: {file: a.json}").node_proxies == ()
    found = cluster(f"jwks: {{file: a.json}}, {SERVER}, node_proxies: [istio-system/ztunnel, a/b]")
    assert found.authentication is Authentication.JWKS
    assert [str(account) for account in found.node_proxies] == ["istio-system/ztunnel", "a/b"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("jwks: {file: a.json}, node_proxies: [istio-system/ztunnel]", "without `api_server`"),
        (f"jwks: {{file: a.json}}, {SERVER}, node_proxies: []", "and `api_server`"),
        (f"jwks: {{file: a.json}}, {SERVER}, node_proxies: istio-system/ztunnel", "wanted: a list"),
        (f"jwks: {{file: a.json}}, {SERVER}, node_proxies: [ztunnel]", "wanted: NAMESPACE/NAME"),
        (f"jwks: {{file: a.json}}, {SERVER}, node_proxies: [1]", "wanted: a text"),
        (f"jwks: {{file: a.json}}, {SERVER}, node_proxies: ['*/ztunnel']", "wanted: a DNS label"),
    ],
)
def test_what_names_no_node_proxy(line: str, said: str) -> None:
    assert said in fault(line)
