"""What the CA's service account may do in a cluster: what a golden file says, and nothing it does not need."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.doc_pages import ROOT
from support.reviewed_clusters import ACCOUNT, NAMESPACE, install_reviewer, reviewer_token

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer

GOLDEN = ROOT / "tests" / "deploy" / "golden" / "ca-can-i.txt"
OURS = "tokenreviews.authentication.k8s.io [] [] [create]"


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


def stranger(server: ApiServer) -> str:
    """A token of a service account that nothing is bound to."""
    install_reviewer(server)
    if server.request("GET", f"/api/v1/namespaces/{NAMESPACE}/serviceaccounts/nobody")[0] == 404:
        server.create_service_account(NAMESPACE, "nobody")
    return server.token(NAMESPACE, "nobody")


def more_than_any_account(server: ApiServer) -> list[str]:
    mine, anybodys = can_i(server, reviewer_token(server)), can_i(server, stranger(server))
    assert set(anybodys) <= set(mine)
    return sorted(set(mine) - set(anybodys))


def test_all_of_it_equals_the_golden_file(kube_137: ApiServer) -> None:
    assert ACCOUNT == "meshpki-ca"
    assert "\n".join(can_i(kube_137, reviewer_token(kube_137))) + "\n" == GOLDEN.read_text()


def test_beyond_any_service_account_1_13(kube_113: ApiServer) -> None:
    assert more_than_any_account(kube_113) == [OURS]


def test_beyond_any_service_account_1_30(kube_130: ApiServer) -> None:
    assert more_than_any_account(kube_130) == [OURS]


def test_beyond_any_service_account_1_37(kube_137: ApiServer) -> None:
    assert more_than_any_account(kube_137) == [OURS]
