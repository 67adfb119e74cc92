"""A CA whose clusters are asked about tokens: over real TLS, with API servers that are none."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import textwrap
import threading
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest

from meshpki.ca.audit.verify import verify
from meshpki.ca.config_clusters import ApiServerSettings, Authentication, ClusterSettings, JwksSettings
from meshpki.ca.server.ca_server import CaServer
from meshpki.ca.server.clusters import open_clusters, review_terms
from meshpki.errors import MeshpkiError, UsageError
from meshpki.tokens.reviewer import ReviewTerms
from support.ca_server import CallFailedError, make_config, running
from support.fake_api_server import Kubernetes, confirm
from support.jwks_server import serving
from support.reviews import refused
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.ca_server import RunningCa
    from support.jwks_server import Handler

Code = grpc.StatusCode
MAKER = TokenMaker()
GONE = "[invalid bearer token, service account token has been invalidated]"


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No answer of an API server that is well is given up, however slow the machine."""
    terms = partial(ReviewTerms, timeout_seconds=60.0, patience_seconds=60.0)
    monkeypatch.setattr("meshpki.ca.server.clusters.ReviewTerms", terms)
    monkeypatch.setattr("meshpki.tokens.jwks_api_server.TIMEOUT_SECONDS", 60.0)


@pytest.fixture
def kubernetes(tmp_path: Path) -> Iterator[Kubernetes]:
    directory = tmp_path / "kubernetes"
    directory.mkdir()
    with serving(directory) as server:
        yield Kubernetes(server, directory)


def good_token(**changes: object) -> bytes:
    import time

    return MAKER.token(now=time.time(), **changes)


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came true")


def cluster(kubernetes: Kubernetes, how: Authentication, **changes: object) -> ClusterSettings:
    jwks = None if how is Authentication.TOKENREVIEW else JwksSettings(api_server=True)
    settings = ClusterSettings("prod", MAKER.issuer, jwks, authentication=how, api_server=kubernetes.settings)
    return replace(settings, **changes)  # type: ignore[arg-type]


def refused_with(ca: RunningCa, token: bytes) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(CallFailedError) as caught:
        ca.client.sign(token)
    return caught.value.code, caught.value.reason


@pytest.mark.parametrize("how", Authentication)
def test_each_way_to_authenticate(tmp_path: Path, kubernetes: Kubernetes, how: Authentication) -> None:
    with running(tmp_path, clusters=(cluster(kubernetes, how),)) as ca:
        until(lambda: ca.http("/readyz")[0] == 200)
        token = good_token()
        assert len(ca.client.sign(token)) == 3
        assert len(ca.client.sign(token)) == 3
        kubernetes.verdict = lambda _: (201, refused(GONE))
        gone = good_token(jti="other")
        if how is Authentication.JWKS:
            assert len(ca.client.sign(gone)) == 3
            assert kubernetes.reviews == []
            return
        assert refused_with(ca, gone) == (Code.UNAUTHENTICATED, "token_pod_gone")
        assert kubernetes.reviews == [f"Bearer reviewer-1 {each.decode()}" for each in (token, gone)]
        metrics = ca.http("/metrics")[1]
    for outcome, number in (("confirmed", 1), ("cached", 1), ("refused", 1), ("unjudged", 0)):
        assert f'meshpki_ca_token_reviews{{cluster="prod",outcome="{outcome}"}} {number}.0' in metrics
    assert 'meshpki_ca_token_review_seconds_count{cluster="prod"} 2.0' in metrics
    report = verify(ca.config.audit)
    assert report.intact
    assert '"reason":"token_pod_gone"' in ca.config.audit.read_text()
    assert token.decode().split(".")[1] not in ca.config.audit.read_text()


@pytest.mark.parametrize("how", [Authentication.TOKENREVIEW, Authentication.HYBRID])
@pytest.mark.parametrize("status", [401, 403, 429, 500, 503])
def test_an_api_server_that_does_not_answer_is_no_refusal(
    tmp_path: Path, kubernetes: Kubernetes, how: Authentication, status: int
) -> None:
    kubernetes.verdict = lambda _: (status, b"{}")
    with running(tmp_path, clusters=(cluster(kubernetes, how),)) as ca:
        with pytest.raises(CallFailedError) as caught:
            ca.client.sign(good_token())
        assert (caught.value.code, caught.value.reason) == (Code.UNAVAILABLE, "review_unavailable")
        assert str(tmp_path) not in caught.value.details
        assert "citadel_server_authentication_failure_count 1.0" in ca.http("/metrics")[1]


def test_the_reviewers_credential_rotates(tmp_path: Path, kubernetes: Kubernetes) -> None:
    """At the latest when the old one is not taken any more: a 401 has it read again at once."""
    with running(tmp_path, clusters=(cluster(kubernetes, Authentication.TOKENREVIEW, review_cache=0),)) as ca:
        ca.client.sign(good_token())
        kubernetes.token_file.write_text("reviewer-2\n")

        def old_is_over(token: str) -> tuple[int, bytes]:
            return confirm(token) if kubernetes.reviews[-1].startswith("Bearer reviewer-2") else (401, b"")

        kubernetes.verdict = old_is_over
        ca.client.sign(good_token())
        assert kubernetes.reviews[-1].startswith("Bearer reviewer-2 ")


def test_readiness_names_the_missing_permission(tmp_path: Path, kubernetes: Kubernetes) -> None:
    """And a CA starts all the same; once reviews worked, an outage sends no caller elsewhere."""
    allowed = threading.Event()
    inner = kubernetes.behave

    def behave(handler: Handler) -> None:
        if allowed.is_set():
            inner(handler)
        else:
            handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
            handler.answer(b"{}", 403)

    kubernetes.server.behaviour = behave
    with running(tmp_path, clusters=(cluster(kubernetes, Authentication.TOKENREVIEW),)) as ca:
        line = "reviews: cluster prod: the reviewer may not create tokenreviews.authentication.k8s.io\n"
        until(lambda: ca.http("/readyz") == (503, line))
        failing = 'meshpki_ca_token_reviews_failing{cause="forbidden",cluster="prod"} 1.0'
        assert failing in ca.http("/metrics")[1]
        allowed.set()
        until(lambda: ca.http("/readyz")[0] == 200)
        assert failing not in ca.http("/metrics")[1]
        allowed.clear()
        until(lambda: refused_with(ca, good_token())[1] == "review_unavailable")
        assert ca.http("/readyz")[0] == 200


def refusal_of(ca: RunningCa, token: bytes) -> str | None:
    try:
        ca.client.sign(token)
    except CallFailedError as error:
        return error.reason
    return None


@pytest.mark.parametrize(
    ("threads", "places", "clusters", "at_once", "waiting"),
    [(16, 64, 1, 8, 56), (16, 64, 2, 8, 40), (1, 1, 1, 1, 0), (1, 1, 2, 1, 0), (2, 2, 2, 1, 1), (64, 64, 3, 32, 16)],
)
def test_bounds_leave_places_to_others(
    tmp_path: Path, threads: int, places: int, clusters: int, at_once: int, waiting: int
) -> None:
    config = make_config(tmp_path, *[TokenMaker(issuer=f"https://c{number}.test") for number in range(clusters)])
    config = replace(config, limits=replace(config.limits, threads=threads, in_flight=places))
    for terms in review_terms(config).values():
        assert (terms.at_once, terms.waiting, terms.cache_seconds) == (at_once, waiting, 30)


def test_a_ca_starts_while_the_api_server_is_away(tmp_path: Path, kubernetes: Kubernetes) -> None:
    with socket.socket() as nobody:  # nor does anybody else come to listen there
        nobody.bind(("127.0.0.1", 0))
        away = replace(kubernetes.settings, url=f"https://127.0.0.1:{nobody.getsockname()[1]}")
        settings = cluster(kubernetes, Authentication.TOKENREVIEW, api_server=away)
        _starts_without_it(tmp_path, settings)


def _starts_without_it(tmp_path: Path, settings: ClusterSettings) -> None:
    with running(tmp_path, clusters=(settings,)) as ca:
        until(lambda: ca.http("/readyz") == (503, "reviews: cluster prod: the API server does not answer\n"))
        assert refused_with(ca, good_token()) == (Code.UNAVAILABLE, "review_unavailable")


KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: {current}
contexts: [{{name: one, context: {{cluster: one, user: one}}}}]
clusters: [{{name: one, cluster: {{server: "https://127.0.0.1:1"}}}}]
users: [{{name: one, user: {{exec: {{apiVersion: client.authentication.k8s.io/v1, command: /bin/true}}}}}}]
"""


@pytest.mark.parametrize(
    ("settings", "seen", "todo"),
    [
        ({"in_cluster": True}, "runs in no pod", "name a kubeconfig instead"),
        ({"kubeconfig": "missing"}, "there is no kubeconfig at ", "put it there, or name another one"),
        ({"kubeconfig": "none", "context": "other"}, "has no context 'other'", "choose one with `context`: one"),
        ({"kubeconfig": "none"}, "has no current-context", "choose one with `context`: one"),
        ({"kubeconfig": "one"}, "/bin/true", "`allow_exec` /bin/true"),
        ({"url": "https://127.0.0.1:1", "ca_file": "missing", "token_file": "missing"}, "missing", ""),
        ({"url": "https://127.0.0.1:1", "ca_file": "one", "token_file": "missing"}, "no PEM of certificates", ""),
    ],
    ids=["no pod", "no kubeconfig", "no such context", "no current context", "exec", "no authority", "a bad authority"],
)
def test_a_way_that_leads_nowhere_is_told_with_its_cluster_and_in_the_words_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], seen: str, todo: str
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    for name, current in (("one", "one"), ("none", '""')):
        (tmp_path / name).write_text(KUBECONFIG.format(current=current))
    files = {key: tmp_path / str(settings[key]) for key in ("kubeconfig", "ca_file", "token_file") if key in settings}
    api_server = ApiServerSettings(**dict(settings, **files))  # type: ignore[arg-type]
    cluster = ClusterSettings("prod", MAKER.issuer, authentication=Authentication.TOKENREVIEW, api_server=api_server)
    with pytest.raises(MeshpkiError, match=r"^cluster 'prod': ") as caught:
        CaServer(replace(make_config(tmp_path), clusters=(cluster,))).start()
    assert seen in caught.value.seen
    assert todo in caught.value.todo
    assert "--" not in str(caught.value)


# --- several clusters ----------------------------------------------------------------------------------------------


def test_one_that_is_away_at_the_start_keeps_the_ca_from_no_other(tmp_path: Path, kubernetes: Kubernetes) -> None:
    import time

    kubernetes.hanging = ("/",)
    other = TokenMaker(issuer="https://other.test", slot=1)
    clusters = (*make_config(tmp_path / "x", other).clusters, cluster(kubernetes, Authentication.HYBRID))
    with running(tmp_path, clusters=clusters) as ca:
        until(lambda: ca.http("/readyz")[0] == 200)
        assert len(ca.client.sign(other.token(now=time.time()))) == 3
        for name, ready in (("cluster-0", 1), ("prod", 0)):
            assert f'meshpki_ca_cluster_ready{{cluster="{name}"}} {ready}.0' in ca.http("/metrics")[1]
        kubernetes.hanging = ()
        kubernetes.released.set()
        until(lambda: 'meshpki_ca_cluster_ready{cluster="prod"} 1.0' in ca.http("/metrics")[1])
        assert len(ca.client.sign(good_token())) == 3


def of_one_issuer(tmp_path: Path, *makers: TokenMaker) -> tuple[ClusterSettings, ...]:
    clusters = make_config(tmp_path, *makers).clusters
    return tuple(replace(each, name=f"cluster-{number}") for number, each in enumerate(clusters))


def test_clusters_of_one_issuer_and_one_key_do_not_start(tmp_path: Path) -> None:
    config = make_config(tmp_path, MAKER, TokenMaker(kid="another"))
    with pytest.raises(UsageError, match="cluster-0 and cluster-1 share an issuer, and one key"):
        CaServer(config).start()


def test_a_key_that_becomes_the_others_is_refused_and_told(tmp_path: Path) -> None:
    west = TokenMaker(kid="west", slot=1)
    with running(tmp_path, west) as ca:
        assert len(ca.client.sign(good_token())) == 3
        jwks = ca.config.clusters[1].jwks
        assert jwks is not None
        assert jwks.file is not None
        jwks.file.write_bytes(west.jwks(MAKER))
        until(lambda: refusal_of(ca, good_token()) == "token_several_clusters")
        alike = 'meshpki_ca_clusters_alike{cluster="cluster-0",other="cluster-1"} 1.0'
        until(lambda: alike in ca.http("/metrics")[1])


@pytest.mark.parametrize("values", [[], ["cluster-0"], ["cluster-1"], ["Kubernetes"], ["cluster-0", "cluster-1"]])
def test_what_a_caller_says_of_its_cluster_changes_nothing(tmp_path: Path, values: list[str]) -> None:
    import time

    west = TokenMaker(kid="west", slot=1)
    with running(tmp_path, west) as ca:
        for maker, name in ((MAKER, "cluster-0"), (west, "cluster-1")):
            metadata = [("authorization", f"Bearer {maker.token(now=time.time()).decode()}")]
            ca.client.request([*metadata, *(("clusterid", value) for value in values)])
            assert f'"cluster":"{name}"' in ca.config.audit.read_text().splitlines()[-1]


# --- what is not needed is not there -------------------------------------------------------------------------------

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from support.ca_server import make_config
from meshpki.ca.server.ca_server import CaServer
with CaServer(make_config(Path({directory!r}))):
    pass
loaded = [name for name in sys.modules if name.split(".")[0] == "kubernetes" or name.startswith("meshpki.kube")]
print(loaded)
"""


def test_a_ca_that_asks_no_api_server_loads_no_client_for_it(tmp_path: Path) -> None:
    from support import distribution

    tests = str(distribution.ROOT / "tests")
    script = textwrap.dedent(SCRIPT).format(tests=tests, directory=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("way", ["https", "api-server"])
def test_after_the_end_of_a_ca_no_fetch_of_keys_is_told(
    tmp_path: Path, kubernetes: Kubernetes, caplog: pytest.LogCaptureFixture, way: str
) -> None:
    """Its thread lives on until the address answers or its time is over: of a CA that is gone, nobody cares."""
    asked, going_on = threading.Event(), threading.Event()

    def hang(handler: Handler) -> None:
        asked.set()
        going_on.wait(60)
        handler.close_connection = True

    kubernetes.server.behaviour = hang
    settings = cluster(kubernetes, Authentication.JWKS)
    if way == "https":
        settings = ClusterSettings(
            "prod", MAKER.issuer, JwksSettings(url=kubernetes.server.url, ca_file=kubernetes.server.root)
        )
    with contextlib.ExitStack() as closing:
        clusters, _ = open_clusters(replace(make_config(tmp_path, MAKER), clusters=(settings,)), closing, 0.0)
        keys = clusters[0].keys
        assert keys is not None
        told: list[Exception] = []

        def ask() -> None:
            try:
                keys.keys("any", 0.0)
            except MeshpkiError as error:
                told.append(error)

        threading.Thread(target=ask, daemon=True).start()
        assert asked.wait(60)
    going_on.set()
    until(lambda: bool(told))
    assert [record.getMessage() for record in caplog.records if "keys" in record.getMessage()] == []
