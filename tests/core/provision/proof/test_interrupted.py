"""Ctrl-C at any moment of a round, and an API server that fails at any of them, leave nothing in the cluster."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import pytest

from meshpki.hooks import CaEndpoint
from meshpki.kube.answer import Answer
from meshpki.kube.client import KubeClient
from meshpki.kube.errors import KubeUnreachableError, Unreachable
from meshpki.provision.checks import Check, Verdict, VerifyReport
from meshpki.provision.cluster.throw_away import LABELS, MARK, STALE_SECONDS
from meshpki.provision.proof.pace import Pace
from meshpki.provision.proof.proof import LeftBehindError
from meshpki.provision.proof.question import NAME
from meshpki.provision.proof.steps import CLEAN
from support import proofs
from support.authority import TestAuthority, make_authority
from support.kube import ApiServer

pytestmark = [pytest.mark.e2e, pytest.mark.kube]
SPACE = "/api/v1/namespaces/default"
DEAD_PROCESS = 4_194_305
"""Above what Linux ever gives (PID_MAX_LIMIT)."""


@cache
def authority() -> TestAuthority:
    return make_authority()


class Clock:
    """Time that passes when somebody sleeps."""

    passed = 0.0

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@dataclass
class Events:
    """Counts what happens at the borders of a round: each request and each call to the CA, begun and done."""

    at: Callable[[int, str], None] = lambda number, what: None
    seen: list[str] = field(default_factory=list)

    def happens(self, what: str) -> None:
        self.seen.append(what)
        self.at(len(self.seen) - 1, what)

    def round(self, server: ApiServer, other: ApiServer | None = None) -> VerifyReport:
        clock = Clock()

        def sign(endpoint: CaEndpoint, token: str, csr: str, seconds: int) -> Sequence[str]:
            self.happens("sign")
            chain = list(authority().issue("default/meshpki-verify", csr=csr).cert_chain)
            self.happens("signed")
            return chain

        return proofs.proven(
            server,
            CaEndpoint("ca.test:443", "ca.test", authority().root_pem),
            sign=sign,
            pace=Pace(monotonic=lambda: clock.passed, sleep=clock.sleep),
            wrap=lambda client: proofs.Recorder(
                client,
                before=lambda _, method, path: self.happens(f"{method} {path}"),
                after=lambda _, method, path: self.happens(f"done {method} {path}"),
            ),
            other=other,
        )


def interrupting(*moments: int) -> Callable[[int, str], None]:
    def at(number: int, what: str) -> None:
        if number in moments:
            signal.raise_signal(signal.SIGINT)

    return at


@pytest.mark.timeout(600)
def test_ctrl_c_at_every_moment(kube_137: ApiServer) -> None:
    whole = Events()
    whole.round(kube_137)
    assert proofs.left(kube_137) == []
    assert len(whole.seen) > 40
    assert {what.split()[-1].rpartition("/")[2] for what in whole.seen if what.startswith("DELETE")} == {NAME}
    for moment, what in enumerate(whole.seen):
        with pytest.raises(KeyboardInterrupt):
            Events(interrupting(moment)).round(kube_137)
        assert proofs.left(kube_137) == [], (moment, what)


def test_ctrl_c_twice(kube_137: ApiServer) -> None:
    """The second one while what was made is taken away, at each of its moments."""
    whole = Events()
    whole.round(kube_137)
    first = whole.seen.index("sign")
    once = Events(interrupting(first))
    with pytest.raises(KeyboardInterrupt):
        once.round(kube_137)
    assert len(once.seen) - first > 4
    for second in range(first + 1, len(once.seen)):
        with pytest.raises(KeyboardInterrupt):
            Events(interrupting(first, second)).round(kube_137)
        assert proofs.left(kube_137) == [], once.seen[second]


def test_ctrl_c_held_down(kube_137: ApiServer) -> None:
    """From when most stands, at each moment."""
    whole = Events()
    whole.round(kube_137)
    first = whole.seen.index(f"done GET {SPACE}/secrets/{NAME}")
    with pytest.raises(KeyboardInterrupt):
        Events(interrupting(*range(first, 10 * len(whole.seen)))).round(kube_137)
    assert proofs.left(kube_137) == []


@pytest.mark.xdist_group("kube-137")
def test_ctrl_c_takes_away_what_stands_in_the_other_cluster_too(kube_137: ApiServer, kube_130: ApiServer) -> None:
    signed = 0

    def at(number: int, what: str) -> None:
        nonlocal signed
        signed += what == "sign"
        if signed == 6:  # of the other cluster's token
            assert len(proofs.left(kube_130)) == 2
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Events(at).round(kube_137, kube_130)
    assert proofs.left(kube_137) == proofs.left(kube_130) == []


@dataclass
class Failing:
    """An asker whose request number `at` fails, before it is sent or after it was done."""

    client: KubeClient
    at: int
    how: Callable[[], Answer]
    sent: bool
    count: int = 0

    def request(self, method: str, path: str, body: Mapping[str, object] | None = None) -> Answer:
        number, self.count = self.count, self.count + 1
        if number == self.at and not self.sent:
            return self.how()
        answer = self.client.request(method, path, body)
        return self.how() if number == self.at else answer


def away() -> Answer:
    raise KubeUnreachableError("the API server refused the connection", why=Unreachable.REFUSED)


WAYS: dict[str, Callable[[], Answer]] = {
    "away": away,
    "500": lambda: Answer(500, b"{}", {}),
    "forbidden": lambda: Answer(403, b'{"kind":"Status","message":"x cannot y"}', {}),
    "garbage": lambda: Answer(200, b"<html>log in", {}),
    "silence": lambda: Answer(200, b"", {}),
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("way", "sent"),
    # Whoever is told that he may not has not done it.
    [(way, sent) for way in WAYS for sent in (False, True) if (way, sent) != ("forbidden", True)],
)
def test_an_api_server_that_fails_at_one_request(kube_137: ApiServer, way: str, sent: bool) -> None:
    """It is told, and never a token's fault; at most what could not be removed stays, and that is told, too."""
    requests = [what for what in _whole(kube_137) if what.startswith(("GET", "POST", "DELETE"))]
    for number, request in enumerate(requests[1:], start=1):
        report = _failing(kube_137, Failing(None, number, WAYS[way], sent))  # type: ignore[arg-type]  # set below
        told = " ".join(check.detail for check in report.failed)
        # Silence is asked again; what was deleted is looked for, and found gone.
        assert report.failed or way == "silence" or request.startswith("DELETE"), request
        left = proofs.left(kube_137)
        if left:
            assert CLEAN in {check.name for check in report.failed}, (number, left)
            assert "kubectl -n default delete" in told
            _tidy(kube_137)


def _whole(server: ApiServer) -> list[str]:
    whole = Events()
    whole.round(server)
    return whole.seen


def _failing(server: ApiServer, failing: Failing) -> VerifyReport:
    clock = Clock()

    def wrap(client: KubeClient) -> Failing:
        failing.client = client
        return failing

    return proofs.proven(
        server,
        CaEndpoint("ca.test:443", "ca.test", authority().root_pem),
        sign=lambda _, __, csr, ___: list(authority().issue("default/meshpki-verify", csr=csr).cert_chain),
        pace=Pace(monotonic=lambda: clock.passed, sleep=clock.sleep),
        wrap=wrap,
    )


def _tidy(server: ApiServer) -> None:
    for path in proofs.left(server):
        server.delete(path)


@pytest.mark.parametrize(
    ("moment", "left"),
    [("sign", ["serviceaccounts", "pods"]), (f"done GET {SPACE}/secrets/{NAME}", list(proofs.MADE))],
    ids=["at the CA", "at the legacy token"],
)
def test_what_cannot_be_removed_is_told_after_ctrl_c(kube_137: ApiServer, moment: str, left: list[str]) -> None:
    def at(number: int, what: str) -> None:
        if what.startswith("DELETE"):
            away()
        if what == moment:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(LeftBehindError, match=r"Pod .* could not be removed .*ServiceAccount") as caught:
        Events(at).round(kube_137)
    assert caught.value.todo == "kubectl -n default delete secret,pod,serviceaccount meshpki-verify"
    assert [path.split("/")[-2] for path in proofs.left(kube_137)] == left
    _tidy(kube_137)


def test_what_cannot_be_removed_is_told_however_often_ctrl_c_is_hit(kube_137: ApiServer) -> None:
    """From when most stands on, at every moment, and nothing can be deleted: it is never said that nothing is left."""
    whole = _whole(kube_137)
    first = whole.index(f"done GET {SPACE}/secrets/{NAME}")
    for last in range(first, first + 12):

        def at(number: int, what: str, last: int = last) -> None:
            if first <= number <= last:
                signal.raise_signal(signal.SIGINT)
            if what.startswith("DELETE"):
                away()

        with pytest.raises(LeftBehindError, match=r"Secret .* could not be removed"):
            Events(at).round(kube_137)
        assert len(proofs.left(kube_137)) == 3
        _tidy(kube_137)


def test_a_run_that_is_at_work_is_left_in_peace(kube_137: ApiServer) -> None:
    """Of this process, which is alive: what it made is neither used nor removed."""
    inner: list[VerifyReport] = []

    def at(number: int, what: str) -> None:
        if what == "sign" and not inner:
            inner.append(Events().round(kube_137))
            assert len(proofs.left(kube_137)) == 2

    assert the(Events(at).round(kube_137), CLEAN).passed
    refused = the(inner[0], "probe")
    assert refused.verdict is Verdict.FAILED
    assert "another `meshpki verify` is at work" in refused.detail
    assert proofs.left(kube_137) == []


@pytest.mark.parametrize(
    ("labels", "mark", "says"),
    [
        (LABELS, f"x.{DEAD_PROCESS}.y", "did not make it"),  # of detect
        ({"app.kubernetes.io/managed-by": "somebody"}, "", "did not make it"),
        ({**LABELS, "app.kubernetes.io/component": "verify"}, "elsewhere.7.y", "is at work"),
    ],
    ids=["of detect", "of somebody", "of a run on another machine"],
)
@pytest.mark.parametrize("resource", ["serviceaccounts", "pods", "secrets"])
def test_what_others_made_stays(
    kube_137: ApiServer, resource: str, labels: Mapping[str, str], mark: str, says: str
) -> None:
    server = kube_137
    metadata = {"name": NAME, "labels": labels, "annotations": {MARK: mark}}
    spec = {"containers": [{"name": "x", "image": "x"}], "automountServiceAccountToken": False}
    if server.request("GET", f"{SPACE}/serviceaccounts/default")[0] == 404:
        server.create_service_account("default", "default")
    uid = server.create(f"{SPACE}/{resource}", {"metadata": metadata, **({"spec": spec} if resource == "pods" else {})})
    try:
        report = Events().round(server)
        assert [path.split("/")[-2] for path in proofs.left(server)] == [resource]
        assert f'"uid":"{uid}"' in server.request("GET", f"{SPACE}/{resource}/{NAME}")[1].decode()
    finally:
        server.delete(f"{SPACE}/{resource}/{NAME}")
    assert [check for check in report.failed if says in check.detail]
    assert STALE_SECONDS == 600


def the(report: VerifyReport, words: str) -> Check:
    (check,) = [check for check in report.checks if words in check.name]
    return check
