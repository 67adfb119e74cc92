"""A cluster's keys from its own API server, by /openid/v1/jwks: a path that wants a credential."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import UnavailableError
from meshpki.tokens.jwks import FetchedKeySource

if TYPE_CHECKING:
    import threading

    from meshpki.kube.client import Answer
    from meshpki.tokens.reviewer import Api

PATH: Final = "/openid/v1/jwks"
"""The address that we talk to, never the `jwks_uri` of the discovery document: that one may be reachable by nobody."""
TIMEOUT_SECONDS: Final = 5.0


def api_server_keys(api: Api, cluster: str, waiting: threading.Semaphore | None = None) -> FetchedKeySource:
    """The keys of the cluster whose API server `api` speaks to. `waiting`: see FetchedKeySource."""

    def fetch() -> bytes:
        return read_keys(api.request("GET", PATH, timeout=TIMEOUT_SECONDS, retry=False))

    name = f"the API server of cluster {cluster}"
    return FetchedKeySource(name, fetch, timeout_seconds=TIMEOUT_SECONDS, waiting=waiting)


def read_keys(answer: Answer) -> bytes:
    """The document itself. Raises UnavailableError that says what is missing: keys that cannot be had refuse nobody."""
    match answer.status:
        case 200:
            return answer.body
        case 401:
            raise UnavailableError(
                "the API server does not know us by our credential (401)", todo="check it under `api_server`"
            )
        case 403:
            raise UnavailableError(
                f"we may not get {PATH} (403)",
                todo="bind ClusterRole system:service-account-issuer-discovery; service accounts have it by default",
            )
        case 404:
            raise UnavailableError(
                f"the API server has no {PATH} (404): its issuer is not https, or it is older than 1.18",
                todo="use a JWKS file, or authentication: tokenreview",
            )
        case status:
            raise UnavailableError(f"{PATH} answered with status {status}", wanted="200")
