"""All objects on an API server, to see whether something was left behind."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer

PASSING = {
    *("events", "leases", "apiservices", "componentstatuses", "endpoints", "endpointslices"),
    *("services", "ipaddresses", "servicecidrs", "namespaces", "configmaps"),
}
"""What a server makes and changes by itself, some of it seconds after it is ready."""


def everything(server: ApiServer) -> frozenset[str]:
    """Every object of every kind that can be listed: `kind namespace/name uid`."""
    found = set()
    for group in ["/api/v1", *(f"/apis/{version}" for version in _versions(server))]:
        for resource in _read(server, group).get("resources", []):
            if "list" in resource["verbs"] and resource["name"] not in PASSING:
                for item in _read(server, f"{group}/{resource['name']}").get("items") or []:
                    metadata = item["metadata"]
                    place = f"{metadata.get('namespace', '')}/{metadata['name']}"
                    found.add(f"{resource['name']} {place} {metadata.get('uid', '')}")
    return frozenset(found)


def _versions(server: ApiServer) -> list[str]:
    return [group["preferredVersion"]["groupVersion"] for group in _read(server, "/apis").get("groups", [])]


# Any: raw answers, of which only names are read.
def _read(server: ApiServer, path: str) -> dict[str, Any]:
    status, body = server.request("GET", path)
    assert status == 200, f"{path}: {status}"
    found: dict[str, Any] = json.loads(body)
    return found
