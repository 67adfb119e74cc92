"""A process that is a CA whose one cluster is a real API server, by one way to authenticate."""

from __future__ import annotations

import contextlib
import tempfile
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

from benchmarks.processes import SERVER_CORE, Message, answer_requests, pin, usage
from meshpki.ca.config import Limits
from meshpki.ca.config_clusters import ApiServerSettings, Authentication, ClusterSettings, JwksSettings
from meshpki.ca.config_values import Seconds
from meshpki.ca.server.ca_server import CaServer
from meshpki.ca.server.metrics import Outcome
from meshpki.runtime.garbage import settle
from meshpki.runtime.scheduling import without_preemption
from support.authority import make_authority
from support.ca_server import SERVER_NAME, make_config

READY_SECONDS = 30
_closing = contextlib.ExitStack()
_servers: list[CaServer] = []


def start(policy: str, url: str, ca_file: str, token_file: str, issuer: str, **limits: int) -> Message:
    """Serve; says where, once the API server lets it review tokens."""
    pin(SERVER_CORE)
    without_preemption()  # as `serve` does
    directory = Path(_closing.enter_context(tempfile.TemporaryDirectory(prefix="meshpki-bench-")))
    authority, how = make_authority(), Authentication(policy)
    cluster = ClusterSettings(
        "bench",
        issuer,
        None if how is Authentication.TOKENREVIEW else JwksSettings(api_server=True),
        authentication=how,
        api_server=ApiServerSettings(url=url, ca_file=Path(ca_file), token_file=Path(token_file)),
        review_cache=Seconds(600),
    )
    config = make_config(directory, authority=authority)
    server = CaServer(replace(config, clusters=(cluster,), limits=Limits(**limits))).start()
    _closing.callback(server.stop)
    settle()  # as `serve` does
    _wait_until_ready(f"http://{server.http_address}/readyz")
    _servers.append(server)
    return {"address": server.address, "roots": authority.root_pem.decode(), "name": SERVER_NAME}


def issued() -> Message:
    """How many certificates so far."""
    return {"issued": _servers[-1].metrics.count(Outcome.ISSUED)}


def _wait_until_ready(page: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            with urllib.request.urlopen(page, timeout=5):  # noqa: S310  # our own server's page
                return
        except urllib.error.HTTPError as error:
            if time.monotonic() > deadline:
                raise SystemExit(f"the CA was not ready: {error.read().decode()}") from error
        time.sleep(0.1)


if __name__ == "__main__":
    with _closing:
        answer_requests({"start": start, "issued": issued, "usage": usage})
