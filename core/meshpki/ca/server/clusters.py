"""From the clusters of the configuration to those that are trusted: keys, reviewers, node proxies, connections."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.ca.config_clusters import Authentication
from meshpki.ca.server.node_proxies import NodeProxies, ProxiesOfCluster
from meshpki.errors import MachineError, MeshpkiError, UnavailableError, UsageError
from meshpki.tokens.api_turns import Turns
from meshpki.tokens.jwks import FetchedKeySource, FileKeySource, HttpsKeySource
from meshpki.tokens.namesakes import overlaps
from meshpki.tokens.review_gate import Gate, Places
from meshpki.tokens.reviewer import ReviewTerms, TokenReviewer
from meshpki.tokens.trusted_cluster import TrustedCluster

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Sequence

    from meshpki.ca.config import CaConfig
    from meshpki.ca.config_clusters import ApiServerSettings, ClusterSettings
    from meshpki.kube.access import Access
    from meshpki.kube.client import KubeClient
    from meshpki.tokens.trusted_cluster import KeySource

_KEEP_FREE: Final = 4
"""One place in so many is kept for calls that need no slow API server."""
_FOR_KEYS: Final = 4
"""One place in so many may be taken by those who wait for keys."""


def open_clusters(
    config: CaConfig, closing: contextlib.ExitStack, now: float
) -> tuple[list[TrustedCluster], NodeProxies]:
    """Make everything that the clusters need; `closing` ends it. No API server is spoken to yet.

    Raises UsageError and MachineError for what the configuration names, and UsageError for two clusters that share an
    issuer and a key.
    """
    terms = review_terms(config)
    servers = {
        cluster.name: _ApiServer.open(access, terms[cluster.name], closing)
        for cluster in config.clusters
        if (access := _access(cluster)) is not None
    }
    waiting = threading.Semaphore(max(1, config.limits.in_flight // _FOR_KEYS))
    clusters = [_trusted(cluster, servers.get(cluster.name), waiting, closing) for cluster in config.clusters]
    _check_files_differ(clusters, now)
    proxies = {
        cluster.name: _proxies(cluster, servers[cluster.name]) for cluster in config.clusters if cluster.node_proxies
    }
    return clusters, NodeProxies(config.trust_domain, proxies)


@dataclass(frozen=True, slots=True)
class _ApiServer:
    """The way to one cluster's API server, and how much of the CA its answers may hold up."""

    client: KubeClient
    terms: ReviewTerms
    places: Places

    @classmethod
    def open(cls, access: Access, terms: ReviewTerms, closing: contextlib.ExitStack) -> _ApiServer:
        from meshpki.kube.client import KubeClient  # only here: a CA that asks no API server loads none of it

        places = terms.at_once + terms.waiting
        client = KubeClient(access, pool=places, timeout_seconds=terms.timeout_seconds)
        return cls(closing.enter_context(client), terms, Places(places))

    def turns(self, requests: int) -> Turns:
        """Those of calls that send so many requests one after the other."""
        gate = Gate(self.places, probe_seconds=requests * self.terms.timeout_seconds)
        return Turns(gate, self.terms.at_once, patience_seconds=self.terms.patience_seconds)


def reviewers(clusters: Sequence[TrustedCluster]) -> tuple[TokenReviewer, ...]:
    """Those of the clusters that have one."""
    return tuple(each.reviewer for each in clusters if isinstance(each.reviewer, TokenReviewer))


def review_terms(config: CaConfig) -> dict[str, ReviewTerms]:
    """The bounds of each cluster's questions, such that one whose API server is slow leaves places to the others.

    A call that waits for an answer takes a place for as long, whatever it asks. Of several clusters none may take the
    last quarter of them.
    """
    places = config.limits.in_flight
    at_once = max(1, config.limits.threads // 2)
    kept_free = places // _KEEP_FREE if len(config.clusters) > 1 else 0
    waiting = max(0, places - at_once - kept_free)
    return {
        cluster.name: ReviewTerms(cache_seconds=cluster.review_cache, at_once=at_once, waiting=waiting)
        for cluster in config.clusters
    }


def _trusted(
    cluster: ClusterSettings,
    server: _ApiServer | None,
    waiting: threading.Semaphore,
    closing: contextlib.ExitStack,
) -> TrustedCluster:
    policy = cluster.policy()
    reviewer = None
    if server is not None and cluster.authentication is not Authentication.JWKS:
        reviewer = TokenReviewer(server.client, policy, server.terms, places=server.places)
    keys = _key_source(cluster, server, waiting)
    if isinstance(keys, FetchedKeySource):
        closing.callback(keys.close)
    return TrustedCluster(policy, keys, reviewer)


def _proxies(cluster: ClusterSettings, server: _ApiServer) -> ProxiesOfCluster:
    from meshpki.kube.pod_directory import PodDirectory

    return ProxiesOfCluster(frozenset(cluster.node_proxies), PodDirectory(server.client), server.turns(2))


def _key_source(cluster: ClusterSettings, server: _ApiServer | None, waiting: threading.Semaphore) -> KeySource | None:
    """`waiting` has places for those who wait for keys, of all clusters: their tokens' signatures are not checked."""
    jwks = cluster.jwks
    if jwks is None:
        return None
    if jwks.url is not None and jwks.ca_file is not None:
        return HttpsKeySource(jwks.url, jwks.ca_file, waiting=waiting)
    if jwks.file is not None:
        return FileKeySource(jwks.file)
    from meshpki.tokens.jwks_api_server import api_server_keys

    assert server is not None  # the configuration saw to it
    return api_server_keys(server.client, cluster.name, waiting)


def _access(cluster: ClusterSettings) -> Access | None:
    """The way to the cluster's API server, if it is asked. Raises UsageError, MachineError that name the cluster."""
    if cluster.api_server is None:
        return None
    try:
        return _way(cluster.api_server)
    except MeshpkiError as error:
        kind = UsageError if isinstance(error, UsageError) else MachineError
        raise kind(
            f"cluster {cluster.name!r}: {_in_keys(error.seen)}", wanted=error.wanted, todo=_in_keys(error.todo)
        ) from error


def _way(settings: ApiServerSettings) -> Access:
    from meshpki.kube import access, in_cluster, kubeconfig

    if settings.in_cluster:
        return in_cluster.load()
    if settings.kubeconfig is not None:
        if not settings.kubeconfig.exists():  # whose own words are for the command line
            raise MachineError(
                f"there is no kubeconfig at {settings.kubeconfig}",
                wanted="the file that `api_server` names",
                todo="put it there, or name another one",
            )
        return kubeconfig.load(settings.kubeconfig, settings.context, allow_exec=settings.allow_exec)
    assert settings.url is not None  # the configuration saw to it
    assert settings.ca_file is not None
    assert settings.token_file is not None
    return access.explicit(settings.url, settings.ca_file, settings.token_file)


def _in_keys(text: str) -> str:
    """The kubeconfig's reader speaks of the options of a command line; here they are keys of `api_server`."""
    for option in ("--kubeconfig", "--context", "--allow-exec"):
        text = text.replace(option, f"`{option[2:].replace('-', '_')}`")
    return text


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
