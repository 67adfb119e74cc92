"""The ladder as it is drawn, at every width, of clusters of which there is no real one at hand."""

from __future__ import annotations

import io

import pytest

from meshpki.provision.cluster.climb import climb
from meshpki.provision.cluster.findings import Findings
from meshpki.provision.cluster.question import Question
from meshpki_cli.detect_view import NAMES, show_findings
from meshpki_cli.page import Page
from support.command_line import plain, widest
from support.fake_cluster import FOUNDING, FakeCluster, away, failure

CLUSTERS = {
    "pod-certificate: there is none above": FakeCluster(),
    "one rung up sds: start every API server": FakeCluster(
        version=FOUNDING, token_requests=False, published=False, certificate_kinds={}
    ),
    "to do first sds: take istio-ca out of --api-audiences": FakeCluster(api_audiences=("istio-ca",)),
    "to find out sds: see whether the API server is up": FakeCluster(
        certificate_kinds={}, scripted={"POST /apis/authentication.k8s.io/v1/tokenreviews": away()}
    ),
    "Could not tell whether sds is possible, which is not a no.": FakeCluster(
        scripted={"POST /apis/authentication.k8s.io/v1/tokenreviews": away()}
    ),
    "Proven: pods can get certificates by themselves. sds is not possible.": FakeCluster(claims={"exp": 1}),
    "sds is not possible; could not tell whether pods can get certificates by themselves.": FakeCluster(
        claims={"exp": 1}, scripted={"GET /apis/certificates.k8s.io/v1": away()}
    ),
    "to find out pod-certificate: see whether the API server is up": FakeCluster(
        scripted={"GET /apis/certificates.k8s.io/v1": away()}
    ),
    "to find out sds: apply what `meshpki detect` prints": FakeCluster(
        certificate_kinds={},
        denied=("create serviceaccounts",),
        scripted={"POST /api/v1/namespaces/default/serviceaccounts": failure(403, 'User "jo" cannot do it')},
    ),
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("columns", [60, 80, 100, 160])
@pytest.mark.parametrize("said", CLUSTERS)
def test_a_ladder(said: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    stream = Terminal()
    found = climb(CLUSTERS[said], Question())
    show_findings(Page(stream), Findings(found), "https://10.0.0.1:6443 (context 'prod' of ~/.kube/config)")
    shown = plain(stream.getvalue())
    words = " ".join(shown.split())
    assert said.removeprefix("pod-certificate: ") in words
    assert widest(shown) <= max(columns, max(len(word) for word in words.split()) + 4)
    for verdict in found.verdicts:
        assert NAMES[verdict.rung] in words
        assert " ".join(verdict.seen.split()) in words
        assert verdict.todo in words
    # Nobody wants to read the same advice twice.
    for todo in {verdict.todo for verdict in found.verdicts if verdict.todo}:
        assert words.count(todo) == 1


def test_every_rung_has_a_name() -> None:
    from meshpki.provision.cluster.verdict import Rung

    assert set(NAMES) == set(Rung)
