"""Which pods an API server knows: one by its name, and those of one account on one node."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError
from meshpki.kube.errors import KubeAnswerError, KubeNotFoundError
from meshpki.kube.paths import path
from meshpki.kube.pods import PodFacts, read_pod

if TYPE_CHECKING:
    from meshpki.identity import ServiceAccountRef
    from meshpki.kube.answer import JsonObject
    from meshpki.kube.client import KubeClient

_PAGE: Final = 250
"""A node holds 110 pods by default, 500 at the most that anybody runs: two pages."""


class PodDirectory:
    """Asks anew each time: a pod that came or went a moment ago is what this is for. Safe for threads."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    def pod(self, namespace: str, name: str) -> PodFacts | None:
        """The pod of that name; None if there is none. Raises KubeError, whose UnavailableError means ask again."""
        where = path("pods", namespace=namespace, name=name)
        try:
            return _read(self._client.get(where), where)
        except KubeNotFoundError:
            return None

    def on_node(self, account: ServiceAccountRef, node: str) -> tuple[PodFacts, ...]:
        """The pods that run as `account` on `node`, in any phase. Raises KubeError.

        The server is asked for the node's pods in the account's namespace (it always could select by `spec.nodeName`);
        what it answers is selected here once more.
        """
        where = path("pods", namespace=account.namespace)
        found = self._client.list(where, query={"fieldSelector": f"spec.nodeName={node}"}, limit=_PAGE)
        pods = (_read(item, where) for item in found.items)
        return tuple(pod for pod in pods if pod.account == account and pod.node == node)


def _read(document: JsonObject, where: str) -> PodFacts:
    try:
        return read_pod(document)
    except InvalidValueError as error:
        raise KubeAnswerError(f"the answer for {where} holds {error.seen}", wanted="a v1 Pod") from error
