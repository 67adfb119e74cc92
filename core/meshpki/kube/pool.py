"""The one place that touches the `kubernetes` client: its connection pool, which releases 36 and 37 both have."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

    import urllib3


def make(server: str, tls_server_name: str, context: ssl.SSLContext, size: int) -> urllib3.PoolManager:
    """Let the client make a pool for one server, `size` connections kept open. No proxy, whatever the environment has.

    The client is imported here and now (0.3 s, 45 MiB), never at start-up. Its models, its kubeconfig reader and its
    REST layer are not used: see docs/adr/0013-kube-room.md.
    """
    from kubernetes.client import Configuration
    from kubernetes.client.rest import RESTClientObject

    from meshpki.kube.guard import GuardedPool

    configuration = Configuration()
    configuration.host = server
    configuration.proxy = None
    configuration.verify_ssl = True
    configuration.tls_server_name = tls_server_name or None
    configuration.connection_pool_maxsize = size
    manager: urllib3.PoolManager = RESTClientObject(configuration).pool_manager
    # Both releases take roots and keys from files of their own making; this context was made in memory.
    manager.connection_pool_kw["ssl_context"] = context
    manager.pool_classes_by_scheme = {"https": GuardedPool}
    return manager
