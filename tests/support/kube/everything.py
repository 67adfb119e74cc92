"""All objects on an API server, to see whether something was left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from meshpki.kube import kubeconfig
from meshpki.kube.client import KubeClient

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer

PASSING = {
    *("events", "leases", "apiservices", "componentstatuses", "endpoints", "endpointslices"),
    *("services", "ipaddresses", "servicecidrs", "namespaces", "configmaps"),
}
"""What a server makes and changes by itself, some of it seconds after it is ready."""
TIMEOUT_SECONDS = 60.0


def everything(server: ApiServer) -> frozenset[str]:
    """Every object of every kind that can be listed: `kind namespace/name uid`."""
    with KubeClient(kubeconfig.load(server.admin_kubeconfig, None), timeout_seconds=TIMEOUT_SECONDS) as client:
        groups = _read(client, "/apis").get("groups", [])
        versions = [f"/apis/{group['preferredVersion']['groupVersion']}" for group in groups]
        return frozenset(one for version in ("/api/v1", *versions) for one in _objects(client, version))


def _objects(client: KubeClient, version: str) -> set[str]:
    found = set()
    for resource in _read(client, version).get("resources", []):
        if "list" in resource["verbs"] and resource["name"] not in PASSING:
            for item in _read(client, f"{version}/{resource['name']}").get("items") or []:
                metadata = item["metadata"]
                place = f"{metadata.get('namespace', '')}/{metadata['name']}"
                found.add(f"{resource['name']} {place} {metadata.get('uid', '')}")
    return found


# Any: raw answers, of which only names are read.
def _read(client: KubeClient, path: str) -> dict[str, Any]:
    answer = client.request("GET", path)
    assert answer.status == 200, f"{path}: {answer.status}"
    found: dict[str, Any] = json.loads(answer.body)
    return found
