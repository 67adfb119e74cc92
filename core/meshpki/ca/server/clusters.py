"""From the clusters of the configuration to those that are trusted: keys, reviewers, node proxies, connections."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from meshpki.ca.config_clusters import Authentication
from meshpki.ca.server.node_proxies import NodeProxies, ProxiesOfCluster
from meshpki.errors import UnavailableError, UsageError
from meshpki.tokens.jwks import FileKeySource, HttpsKeySource
from meshpki.tokens.namesakes import overlaps
from meshpki.tokens.reviewer import ReviewTerms, TokenReviewer
from meshpki.tokens.verify import TrustedCluster

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Mapping, Sequence

    from meshpki.ca.config import CaConfig
    from meshpki.ca.config_clusters import ApiServerSettings, ClusterSettings
    from meshpki.kube.access import Access
    from meshpki.kube.client import KubeClient
    from meshpki.tokens.verify import KeySource

_KEEP_FREE: Final = 4
"""One thread in so many is kept for calls that need no slow API server."""
_FOR_KEYS: Final = 4
"""One place in so many may be taken by those who wait for keys."""


def open_clusters(
    config: CaConfig, closing: contextlib.ExitStack, now: float
) -> tuple[list[TrustedCluster], NodeProxies]:
    """Make everything that the clusters need; `closing` ends it. No API server is spoken to yet.

    Raises UsageError, MachineError and KubeCredentialError for what the configuration names, and UsageError for two
    clusters that share an issuer and a key.
    """
    terms = review_terms(config)
    clients = {
        cluster.name: closing.enter_context(_client(cluster.api_server, terms[cluster.name].at_once))
        for cluster in config.clusters
        if cluster.api_server is not None
    }
    waiting = threading.Semaphore(max(1, config.limits.in_flight // _FOR_KEYS))
    clusters = [
        _trusted(cluster, terms[cluster.name], clients.get(cluster.name), waiting) for cluster in config.clusters
    ]
    _check_files_differ(clusters, now)
    return clusters, _node_proxies(config, clients)


def reviewers(clusters: Sequence[TrustedCluster]) -> tuple[TokenReviewer, ...]:
    """Those of the clusters that have one."""
    return tuple(each.reviewer for each in clusters if isinstance(each.reviewer, TokenReviewer))


def review_terms(config: CaConfig) -> dict[str, ReviewTerms]:
    """The bounds of each cluster's reviews, such that one whose API server is slow leaves threads to the others.

    A call that is reviewed takes a thread for as long. Of several clusters none may take the last quarter of them.
    """
    threads = config.limits.threads
    at_once = max(1, threads // 2)
    kept_free = threads // _KEEP_FREE if len(config.clusters) > 1 else 0
    waiting = max(0, threads - at_once - kept_free)
    return {
        cluster.name: ReviewTerms(cache_seconds=cluster.review_cache, at_once=at_once, waiting=waiting)
        for cluster in config.clusters
    }


def _trusted(
    cluster: ClusterSettings, terms: ReviewTerms, client: KubeClient | None, waiting: threading.Semaphore
) -> TrustedCluster:
    policy = cluster.policy()
    reviewer = None
    if client is not None and cluster.authentication is not Authentication.JWKS:
        reviewer = TokenReviewer(client, policy, terms)
    return TrustedCluster(policy, _key_source(cluster, client, waiting), reviewer)


def _node_proxies(config: CaConfig, clients: Mapping[str, KubeClient]) -> NodeProxies:
    """Those of each cluster that has some; as many ask at once as reviews may."""
    proxies = {}
    for cluster in config.clusters:
        if cluster.node_proxies:
            from meshpki.kube.pod_directory import PodDirectory

            pods = PodDirectory(clients[cluster.name])
            proxies[cluster.name] = ProxiesOfCluster(frozenset(cluster.node_proxies), pods)
    return NodeProxies(config.trust_domain, proxies, at_once=max(1, config.limits.threads // 2))


def _key_source(cluster: ClusterSettings, client: KubeClient | None, waiting: threading.Semaphore) -> KeySource | None:
    """`waiting` has places for those who wait for keys, of all clusters: their tokens' signatures are not checked."""
    jwks = cluster.jwks
    if jwks is None:
        return None
    if jwks.url is not None and jwks.ca_file is not None:
        return HttpsKeySource(jwks.url, jwks.ca_file, waiting=waiting)
    if jwks.file is not None:
        return FileKeySource(jwks.file)
    from meshpki.tokens.jwks_api_server import api_server_keys

    assert client is not None  # the configuration saw to it
    return api_server_keys(client, cluster.name, waiting)


def _client(settings: ApiServerSettings, connections: int) -> KubeClient:
    from meshpki.kube.client import KubeClient  # only here: a CA that asks no API server loads none of it

    return KubeClient(_access(settings), pool=connections)


def _access(settings: ApiServerSettings) -> Access:
    from meshpki.kube import access, in_cluster, kubeconfig

    if settings.in_cluster:
        return in_cluster.load()
    if settings.kubeconfig is not None:
        return kubeconfig.load(settings.kubeconfig, settings.context, allow_exec=settings.allow_exec)
    assert settings.url is not None  # the configuration saw to it
    assert settings.ca_file is not None
    assert settings.token_file is not None
    return access.explicit(settings.url, settings.ca_file, settings.token_file)


def _check_files_differ(clusters: Sequence[TrustedCluster], now: float) -> None:
    """Keys in files are there now: look whether clusters of one issuer can be told apart."""
    issuers = [cluster.policy.issuer for cluster in clusters]
    for cluster in clusters:
        if issuers.count(cluster.policy.issuer) > 1 and isinstance(cluster.keys, FileKeySource):
            try:
                cluster.keys.keys(None, now)
            except UnavailableError:
                continue  # no file yet: readiness says so, and no token is believed before it is there
    for one, other in overlaps(clusters):
        raise UsageError(
            f"clusters {one} and {other} share an issuer, and one key is in the JWKS of both: nobody could tell their "
            "tokens apart",
            wanted="a signing key of its own for every cluster, or an issuer of its own",
            todo="see which cluster the JWKS files are of; a cloned cluster needs a new service-account key",
        )
