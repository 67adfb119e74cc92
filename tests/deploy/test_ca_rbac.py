"""What the CA's service account may do in a cluster: what a golden file says, and nothing it does not need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.can_i import GOLDEN, can_i
from support.reviewed_clusters import ACCOUNT, NAMESPACE, install_reviewer, reviewer_token

if TYPE_CHECKING:
    from support.kube.api_server import ApiServer

OURS = "tokenreviews.authentication.k8s.io [] [] [create]"


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
    assert "\n".join(can_i(kube_137, reviewer_token(kube_137))) + "\n" == (GOLDEN / "ca-can-i.txt").read_text()


def test_beyond_any_service_account_1_13(kube_113: ApiServer) -> None:
    assert more_than_any_account(kube_113) == [OURS]


def test_beyond_any_service_account_1_30(kube_130: ApiServer) -> None:
    assert more_than_any_account(kube_130) == [OURS]


def test_beyond_any_service_account_1_37(kube_137: ApiServer) -> None:
    assert more_than_any_account(kube_137) == [OURS]
