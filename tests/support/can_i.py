"""What whoever has a token may do in a cluster, as `kubectl auth can-i --list` tells it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.doc_pages import ROOT
from support.reviewed_clusters import NAMESPACE

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer

GOLDEN = ROOT / "tests" / "deploy" / "golden"


def can_i(server: ApiServer, token: str) -> list[str]:
    """`kubectl auth can-i --list`: resources, paths beside them, names, verbs; a line each, sorted, each once."""
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": NAMESPACE},
    }
    status, answer = server.request("POST", "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews", body, token=token)
    assert status == 201, answer
    rules = json.loads(answer)["status"]
    assert rules["incomplete"] is False
    lines = set()
    for rule in rules["resourceRules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                name = f"{resource}.{group}" if group else resource
                lines.add(f"{name} [] {listed(rule.get('resourceNames', []))} {listed(rule['verbs'])}")
    for rule in rules["nonResourceRules"]:
        lines |= {f"[{path}] [] {listed(rule['verbs'])}" for path in rule["nonResourceURLs"]}
    return sorted(lines)


def listed(values: list[str]) -> str:
    return f"[{' '.join(values)}]"
