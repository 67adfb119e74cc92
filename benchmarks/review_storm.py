"""2,000 distinct tokens as fast as they come, by each way to authenticate, against a real API server."""

from __future__ import annotations

import contextlib
import itertools
import re
import sys
import tempfile
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ca_wire import server_cpu_us
from benchmarks.processes import Helper
from benchmarks.result import Result, Row, machine
from support.kube import ground
from support.kube.pool import ApiServerPool
from support.kube_assets.releases import Release
from support.many_tokens import Signer
from support.reviewed_clusters import reviewer_token

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
        tokens, path = Signer(server).tokens(), directory / "tokens"
        cas = {policy: closing.enter_context(_ca(server, policy, directory)) for policy in POLICIES}
        for _ in range(rounds):
            for policy, ca in cas.items():
                path.write_bytes(b"\n".join(itertools.islice(tokens, calls)))
                _storm(found[policy], server, ca, path, calls)
        for policy, ca in cas.items():
            path.write_bytes(b"\n".join(itertools.islice(tokens, calls)))
            _outage(found[policy], server, ca, path, calls)
    return Result("review_storm", WHAT, tuple(_rows(found)), notes=_NOTES, machine=machine())


_NOTES = (
    "API calls are TokenReviews by the API server's own count. Again: the same tokens once more, verdicts at hand.",
    "Outage: once for each, in the middle of a storm, the API server is killed and started again; who is sent away",
    "asks again, and every token has its certificate in the end.",
)


def _storm(found: dict[str, list[float]], server: ApiServer, ca: Helper, tokens: Path, calls: int) -> None:
    """One storm and its echo; each round has tokens and connections of its own."""
    with _load(ca, tokens) as load:
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


def _outage(found: dict[str, list[float]], server: ApiServer, ca: Helper, tokens: Path, calls: int) -> None:
    """A storm in whose middle the API server is killed and started again."""
    before = ca.ask("issued")["issued"]
    with _load(ca, tokens) as load, ThreadPoolExecutor(1) as pool:
        run = pool.submit(load.ask, "run", calls=calls)
        while ca.ask("issued")["issued"] < before + calls // 4:
            time.sleep(0.02)
        began = time.monotonic()
        server.kill()
        server.start()
        outage = time.monotonic() - began
        ended = run.result()
    found["outage"].append(outage)
    found["outage: sent away for a moment"].append(ended["sent_away"])
    found["outage: longest wait for a certificate"].append(ended["max_ms"] / 1000)


def _load(ca: Helper, tokens: Path) -> Helper:
    shape = {"connections": CONNECTIONS, "in_flight": IN_FLIGHT}
    return Helper("benchmarks.load_helper", tokens=str(tokens), patient=True, **shape, **ca.ready)


_UNITS = {
    "API calls": "",
    "outage": "s",
    "outage: sent away for a moment": "",
    "outage: longest wait for a certificate": "s",
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
