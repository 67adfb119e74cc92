"""2,000 distinct tokens as fast as they come, by each way to authenticate, against a real API server."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import sys
import tempfile
from base64 import urlsafe_b64decode
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from benchmarks.ca_wire import server_cpu_us
from benchmarks.processes import Helper
from benchmarks.result import Result, Row, machine
from support.kube import ground
from support.kube.pool import ApiServerPool
from support.kube_assets.releases import Release
from support.reviewed_clusters import Workload, reviewer_token
from support.tokens import b64url, compact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kube.api_server import ApiServer

POLICIES = ("jwks", "hybrid", "tokenreview")
LIMITS = {"in_flight": 64, "threads": 16}
CONNECTIONS, IN_FLIGHT = 4, 48
_REVIEWS = re.compile(rb'^apiserver_request_total\{[^}]*resource="tokenreviews"[^}]*\} ([0-9.e+]+)$', re.MULTILINE)
WHAT = "TLS, 48 calls in flight, every token another one; API server 1.37, CA and load share the machine"


def measure(rounds: int = 3, calls: int = 2000) -> Result:
    """Storm each policy in turn; left out where no real API server can run."""
    fact = ground.missing(Release.MODERN)
    if fact is not None:
        sys.stderr.write(f"  left out: {fact}; {ground.TODO}\n")
        return Result("review_storm", WHAT, (), notes=(f"Left out: {fact}.",), machine=machine())
    found: dict[str, dict[str, list[float]]] = {policy: defaultdict(list) for policy in POLICIES}
    with contextlib.ExitStack() as closing:
        directory = Path(closing.enter_context(tempfile.TemporaryDirectory(prefix="meshpki-bench-")))
        pool = ApiServerPool()
        closing.callback(pool.close)
        server = pool(Release.MODERN)
        tokens = Signer(server).tokens()
        cas = {policy: closing.enter_context(_ca(server, policy, directory)) for policy in POLICIES}
        for _ in range(rounds):
            for policy, ca in cas.items():
                path = directory / "tokens"
                path.write_bytes(b"\n".join(itertools.islice(tokens, calls)))
                _storm(found[policy], server, ca, path, calls)
    return Result("review_storm", WHAT, tuple(_rows(found)), notes=_NOTES, machine=machine())


_NOTES = (
    "API calls are TokenReviews by the API server's own count. Again: the same tokens once more, verdicts at hand.",
)


def _storm(found: dict[str, list[float]], server: ApiServer, ca: Helper, tokens: Path, calls: int) -> None:
    """One storm and its echo; each round has tokens and connections of its own."""
    shape = {"connections": CONNECTIONS, "in_flight": IN_FLIGHT}
    with Helper("benchmarks.load_helper", tokens=str(tokens), patient=True, **shape, **ca.ready) as load:
        before = reviews_made(server)
        run = server_cpu_us(ca, load, calls)
        made = reviews_made(server) - before
        again = server_cpu_us(ca, load, calls)
    for name, value in (
        ("API calls", made),
        ("sent away for a moment", run["sent_away"]),
        ("p50", run["p50_ms"]),
        ("p99", run["p99_ms"]),
        ("certificates a second", run["rate"]),
        ("CPU of the CA, per certificate", run["cpu_us"]),
        ("p50 again", again["p50_ms"]),
        ("certificates a second again", again["rate"]),
    ):
        found[name].append(value)


_UNITS = {
    "API calls": "",
    "sent away for a moment": "",
    "p50": "ms",
    "p99": "ms",
    "p50 again": "ms",
    "CPU of the CA, per certificate": "us",
}


def _rows(found: dict[str, dict[str, list[float]]]) -> Iterator[Row]:
    for policy, numbers in found.items():
        for name, values in numbers.items():
            yield Row.of(f"{policy}: {name}", _UNITS.get(name, "1/s"), values)


def _ca(server: ApiServer, policy: str, directory: Path) -> Helper:
    token_file = directory / f"reviewer-{policy}"
    token_file.write_text(reviewer_token(server), encoding="ascii")
    return Helper(
        "benchmarks.storm_helper",
        policy=policy,
        url=server.url,
        ca_file=str(server.ca_file),
        token_file=str(token_file),
        issuer=server.service_account_issuer,
        **LIMITS,
    )


def reviews_made(server: ApiServer) -> float:
    """TokenReviews that the API server has answered so far."""
    status, page = server.request("GET", "/metrics")
    assert status == 200, page
    return sum(float(number) for number in _REVIEWS.findall(page))


class Signer:
    """Makes as many tokens as are wanted out of one, by the cluster's own key: TokenRequest would take longer."""

    def __init__(self, server: ApiServer) -> None:
        key = load_pem_private_key(server.private_key_file.read_bytes(), None)
        assert isinstance(key, rsa.RSAPrivateKey)
        self._key = key
        self._head, payload, _ = Workload.make(server).token().encode().split(b".")
        self._claims = json.loads(urlsafe_b64decode(payload + b"=="))

    def tokens(self) -> Iterator[bytes]:
        """One after the other, each with an ID of its own."""
        for number in itertools.count():
            claims = {**self._claims, "jti": f"storm-{number}", "exp": self._claims["iat"] + 3600}
            signed = self._head + b"." + b64url(compact(claims))
            yield signed + b"." + b64url(self._key.sign(signed, padding.PKCS1v15(), hashes.SHA256()))
