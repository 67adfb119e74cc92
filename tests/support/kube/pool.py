"""Makes API servers in the directory that the guard watches, and ends them."""

from __future__ import annotations

import itertools
import shutil
from typing import TYPE_CHECKING

from support.kube import guard
from support.kube.api_server import ApiServer
from support.kube.cluster import Cluster
from support.kube.flags import DEFAULT_ISSUER
from support.kube_assets.releases import Release

if TYPE_CHECKING:
    from collections.abc import Sequence

_numbers = itertools.count(1)


class ApiServerPool:
    """The servers of one test, or of one test run; `close` ends them all and removes their files."""

    def __init__(self) -> None:
        self._servers: list[ApiServer] = []

    def __call__(
        self,
        release: str = Release.MODERN,
        *flags: str,
        issuers: Sequence[str] = (DEFAULT_ISSUER,),
        beside: ApiServer | None = None,
    ) -> ApiServer:
        """A ready server of that release with these flags besides the usual ones (one of the same name replaces ours).

        `issuers`: the first signs; none at all leaves TokenRequest out (1.13 only).
        `beside`: on that server's etcd, with its keys and users, as in a cluster with several.
        """
        cluster = beside.cluster if beside else Cluster(guard.directory() / f"cluster-{next(_numbers)}")
        try:
            server = ApiServer(cluster, Release(release), flags, issuers)
        except BaseException:
            if beside is None:
                _remove(cluster)
            raise
        self._servers.append(server)
        return server

    def trio(self, release: str = Release.MODERN, *flags: str) -> tuple[ApiServer, ApiServer, ApiServer]:
        """Three servers on one etcd."""
        first = self(release, *flags)
        return first, self(release, *flags, beside=first), self(release, *flags, beside=first)

    def close(self) -> None:
        """End every server and every etcd, at once."""
        for server in self._servers:
            server.kill()
        for cluster in {server.cluster for server in self._servers}:
            _remove(cluster)
        self._servers.clear()


def _remove(cluster: Cluster) -> None:
    cluster.etcd.kill()
    shutil.rmtree(cluster.directory)
