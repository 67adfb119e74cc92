"""A round of `meshpki verify` against a real API server and a real CA: what both need, and what may go wrong."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import threading
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from unittest import mock

from meshpki.ca.config_clusters import ApiServerSettings, Authentication, ClusterSettings, JwksSettings
from meshpki.ca.config_values import Seconds
from meshpki.hooks import CaEndpoint
from meshpki.identity import TrustDomain
from meshpki.kube import kubeconfig as kubeconfigs
from meshpki.kube.client import KubeClient
from meshpki.kube.credentials import TokenText
from meshpki.provision.ca_questions import CaQuestions, default_sign, new_request
from meshpki.provision.proof.proof import prove
from meshpki.provision.proof.question import NAME, Question
from meshpki.tokens.reviewer import ReviewTerms
from support import ca_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from meshpki.kube.answer import Answer
    from meshpki.provision.ca_questions import Sign
    from meshpki.provision.checks import VerifyReport
    from meshpki.provision.cluster.evidence import Asker
    from meshpki.provision.proof.pace import Pace
    from support.kube import ApiServer

TRUST_DOMAIN = "mesh.local"
MADE = ("serviceaccounts", "pods", "secrets")
PATIENCE = 60.0
"""Seconds for one request: the machine that runs the tests may be busy."""


def cluster_settings(
    server: ApiServer,
    directory: Path,
    authentication: Authentication = Authentication.JWKS,
    name: str = "real",
    review_cache: int = 2,
    *,
    keys_from_server: bool = False,
) -> ClusterSettings:
    """That API server as the CA is told of it, with its keys in a file below `directory`, or from itself."""
    file = directory / f"{name}-jwks.json"
    file.write_bytes(server.jwks())
    keys = JwksSettings(api_server=True) if keys_from_server else JwksSettings(file=file)
    asks = keys_from_server or authentication is not Authentication.JWKS
    asked = ApiServerSettings(kubeconfig=server.admin_kubeconfig) if asks else None
    return ClusterSettings(
        name,
        server.service_account_issuer,
        keys if authentication is not Authentication.TOKENREVIEW else None,
        authentication=authentication,
        api_server=asked,
        review_cache=Seconds(review_cache),
    )


@contextlib.contextmanager
def ca_for(directory: Path, *clusters: ClusterSettings) -> Iterator[CaEndpoint]:
    """A CA that trusts these clusters, as it is reached from outside. It gives none up that is slow."""
    terms = functools.partial(ReviewTerms, timeout_seconds=PATIENCE, patience_seconds=PATIENCE)
    with (
        mock.patch("meshpki.ca.server.clusters.ReviewTerms", terms),
        mock.patch("meshpki.tokens.jwks_api_server.TIMEOUT_SECONDS", PATIENCE),
        ca_server.running(directory, clusters=clusters) as ca,
    ):
        yield CaEndpoint(ca.server.address, ca_server.SERVER_NAME, ca.authority.root_pem)


def left(server: ApiServer, namespace: str = "default") -> list[str]:
    """What stands there under the probe's name."""
    paths = [f"/api/v1/namespaces/{namespace}/{resource}/{NAME}" for resource in MADE]
    return [path for path in paths if server.request("GET", path)[0] != 404]


@dataclass
class Recorder:
    """Passes requests on, counts them, and lets a test do something before or after one of them."""

    client: KubeClient
    before: Callable[[int, str, str], None] = lambda number, method, path: None
    after: Callable[[int, str, str], None] = lambda number, method, path: None
    seen: list[str] = field(default_factory=list)

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        number = len(self.seen)
        self.seen.append(f"{method} {path}")
        self.before(number, method, path)
        answer = self.client.request(method, path, body)
        self.after(number, method, path)
        return answer


@contextlib.contextmanager
def client(server: ApiServer, file: Path | None = None) -> Iterator[KubeClient]:
    """As the administrator, or as whoever that kubeconfig is of."""
    with KubeClient(kubeconfigs.load(file or server.admin_kubeconfig, None), timeout_seconds=PATIENCE) as opened:
        yield opened


def proven(
    server: ApiServer,
    endpoint: CaEndpoint,
    *,
    kubeconfig: Path | None = None,
    sign: Sign | None = None,
    other: ApiServer | None = None,
    pace: Pace | None = None,
    wrap: Callable[[KubeClient], Asker] | None = None,
    progress: Callable[[str], None] | None = None,
    **wishes: object,
) -> VerifyReport:
    """One whole round; `wishes` are fields of the Question."""
    question = replace(Question(TrustDomain(TRUST_DOMAIN), legacy_seconds=0.0), **wishes)  # type: ignore[arg-type]

    def knock(token: str) -> int:
        access = kubeconfigs.load(server.admin_kubeconfig, None)
        with KubeClient(replace(access, credential=TokenText(token)), timeout_seconds=PATIENCE) as stranger:
            return stranger.request("GET", "/version").status

    with contextlib.ExitStack() as opened:
        asker = opened.enter_context(client(server, kubeconfig))
        others = opened.enter_context(client(other)) if other else None
        return prove(
            wrap(asker) if wrap else asker,
            CaQuestions(endpoint, sign or default_sign(), new_request()),
            question,
            knock=knock,
            other=others,
            pace=pace,
            progress=progress,
        )


@contextlib.contextmanager
def token_controller(server: ApiServer, namespace: str = "default") -> Iterator[None]:
    """Fill the probe's Secret as a controller-manager does, until the block ends."""
    ended = threading.Event()
    path = f"/api/v1/namespaces/{namespace}/secrets/{NAME}"

    def fill() -> None:
        while not ended.wait(0.02):
            status, body = server.request("GET", path)
            secret = json.loads(body) if status == 200 else {}
            if secret and not secret.get("data"):
                token = server.cluster.account_key.legacy_token(
                    namespace, NAME, "uid", NAME, with_kid=server.release.minor >= 16
                )
                secret["data"] = {"token": base64.b64encode(token.encode()).decode()}
                server.request("PUT", path, secret)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
