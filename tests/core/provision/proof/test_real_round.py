"""Whole rounds: real API servers of every age, a real CA by each policy."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from meshpki.agent.renewal.ca_client import sign_once
from meshpki.ca.config_clusters import Authentication
from meshpki.errors import MeshpkiError
from meshpki.hooks import CaEndpoint
from meshpki.provision.checks import Check, Verdict, VerifyReport
from meshpki.provision.proof.question import NAME
from meshpki.provision.proof.steps import CLEAN, STEPS
from support import proofs
from support.authority import make_authority
from support.kube import ApiServer
from support.kube.pool import ApiServerPool
from support.reviewed_clusters import Workload

SPACE = "/api/v1/namespaces/default"
AGES = ("kube_113", "kube_130", "kube_137")
every_age = pytest.mark.parametrize(
    "age", [pytest.param(age, marks=pytest.mark.xdist_group(age.replace("_", "-"))) for age in AGES]
)
pytestmark = [pytest.mark.e2e, pytest.mark.kube]


@pytest.fixture
def server(request: pytest.FixtureRequest, age: str) -> Iterator[ApiServer]:
    found: ApiServer = request.getfixturevalue(age)
    yield found
    assert proofs.left(found) == []


def the(report: VerifyReport, words: str) -> Check:
    (check,) = [check for check in report.checks if words in check.name]
    return check


def verdicts(report: VerifyReport) -> dict[str, str]:
    return {check.name: check.verdict.value for check in report.checks}


@every_age
def test_a_ca_that_goes_by_keys(server: ApiServer, tmp_path: Path) -> None:
    told: list[str] = []
    with proofs.ca_for(tmp_path, proofs.cluster_settings(server, tmp_path)) as ca, proofs.token_controller(server):
        report = proofs.proven(server, ca, legacy_seconds=60.0, progress=told.append)
    assert report.passed, report.failed
    assert verdicts(report) == {
        "the probe default/meshpki-verify stands": "passed",
        "TokenRequest: a token for istio-ca, bound to a pod": "passed",
        "TokenReview confirms it for istio-ca": "passed",
        "TokenReview refuses it for the API server": "passed",
        "the API server refuses it as a credential": "passed",
        "default/meshpki-verify gets a certificate for it": "passed",
        "a token for another audience is refused": "passed",
        "a request without a token is refused": "passed",
        "a token that is garbage is refused": "passed",
        "the same token signed by another key is refused": "passed",
        "a legacy token is refused": "passed",
        "another cluster's token is refused": "skipped",
        "a token whose pod is gone is refused": "skipped",
        "what was made is removed": "passed",
    }
    assert the(report, "gets a certificate").detail.startswith(
        "spiffe://mesh.local/ns/default/sa/meshpki-verify until "
    )
    assert the(report, "another audience").detail == "UNAUTHENTICATED: token_wrong_audience"
    assert the(report, "without a token").detail == "UNAUTHENTICATED: token_missing"
    assert the(report, "garbage").detail == "UNAUTHENTICATED: token_malformed"
    assert the(report, "another key").detail == "UNAUTHENTICATED: token_bad_signature"
    assert the(report, "legacy").detail == "UNAUTHENTICATED: token_legacy"
    assert the(report, "pod is gone").detail.startswith("not checked by this CA: it issued a certificate")
    steps = [f"step {number} of {STEPS}: {check.name}" for number, check in enumerate(report.checks, 1)]
    assert told == steps
    assert len(steps) == STEPS
    assert the(report, "TokenRequest").evidence[-1] == f"POST {SPACE}/serviceaccounts/{NAME}/token: HTTP 201"
    (asked,) = the(report, "gets a certificate").evidence
    assert re.fullmatch(r"CreateCertificate at 127\.0\.0\.1:[0-9]+: OK, 3 certificates", asked)
    removed = tuple(f"DELETE {SPACE}/{kind}/{NAME}: HTTP 200" for kind in ("secrets", "pods", "serviceaccounts"))
    assert the(report, CLEAN).evidence == removed
    assert [check.name for check in report.checks if check.passed and not check.evidence] == []


@every_age
@pytest.mark.parametrize("how", [Authentication.TOKENREVIEW, Authentication.HYBRID])
def test_a_ca_that_asks_the_api_server(server: ApiServer, how: Authentication, tmp_path: Path) -> None:
    with proofs.ca_for(tmp_path, proofs.cluster_settings(server, tmp_path, how)) as ca:
        report = proofs.proven(server, ca, require_revocation=True)
    assert report.passed, report.failed
    # The API server itself remembers for 10 s that a token was good.
    assert the(report, "pod is gone").verdict is Verdict.PASSED
    assert the(report, "pod is gone").detail.startswith("UNAUTHENTICATED: token_pod_gone (")
    assert the(report, "another key").detail == "UNAUTHENTICATED: token_bad_signature"
    assert the(report, "legacy").verdict is Verdict.SKIPPED
    assert the(report, "legacy").detail.endswith("no controller filled the Secret within 0 s")


def test_a_ca_that_remembers_for_too_long(kube_137: ApiServer, tmp_path: Path) -> None:
    settings = proofs.cluster_settings(kube_137, tmp_path, Authentication.HYBRID, review_cache=60)
    with proofs.ca_for(tmp_path, settings) as ca:
        report = proofs.proven(kube_137, ca, revocation_seconds=1.0)
    assert [check.name for check in report.failed] == ["a token whose pod is gone is refused"]
    assert "UNAUTHENTICATED: token_pod_gone for one that the CA had not seen" in report.failed[0].detail
    assert "1 s later it still took" in report.failed[0].detail


def test_a_ca_that_goes_by_keys_fails_where_revocation_is_required(kube_137: ApiServer, tmp_path: Path) -> None:
    with proofs.ca_for(tmp_path, proofs.cluster_settings(kube_137, tmp_path)) as ca:
        report = proofs.proven(kube_137, ca, require_revocation=True)
    assert [check.name for check in report.failed] == ["a token whose pod is gone is refused"]


@pytest.mark.xdist_group("kube-137")
@pytest.mark.parametrize("issuer", ["https://other.example", None], ids=["of another issuer", "of the same issuer"])
def test_another_clusters_token(
    kube_137: ApiServer, api_server: ApiServerPool, issuer: str | None, tmp_path: Path
) -> None:
    other = api_server("v1.37.2", issuers=[issuer] if issuer else [kube_137.service_account_issuer])
    with proofs.ca_for(tmp_path, proofs.cluster_settings(kube_137, tmp_path)) as ca:
        report = proofs.proven(kube_137, ca, other=other)
        trusting = proofs.proven(kube_137, ca, other=other, other_trusted=True)
    assert report.passed, report.failed
    reason = "token_unknown_issuer" if issuer else "token_unknown_key"
    assert the(report, "another cluster").detail == f"UNAUTHENTICATED: {reason}"
    assert [check.name for check in trusting.failed] == ["the other cluster's token gets one, too"]
    assert proofs.left(other) == proofs.left(kube_137) == []
    both = (
        proofs.cluster_settings(kube_137, tmp_path),
        proofs.cluster_settings(other, tmp_path, name="other"),
    )
    with proofs.ca_for(tmp_path / "both", *both) as ca:
        believed = proofs.proven(kube_137, ca, other=other, other_trusted=True)
        report = proofs.proven(kube_137, ca, other=other)
    assert believed.passed, believed.failed
    assert [check.name for check in report.failed] == ["another cluster's token is refused"]
    assert report.failed[0].detail == "the CA issued a certificate for it"
    assert proofs.left(other) == proofs.left(kube_137) == []


@pytest.mark.xdist_group("kube-137")
@pytest.mark.parametrize("how", [Authentication.JWKS, Authentication.HYBRID])
def test_another_clusters_token_is_no_failure_of_a_ca_that_has_just_looked_for_keys(
    kube_137: ApiServer, api_server: ApiServerPool, how: Authentication, tmp_path: Path
) -> None:
    """As kubeadm makes clusters, and the CA is recommended: one issuer string, keys from the API server.

    The CA looks for strangers' keys every ten seconds at most, and says `key_not_seen_yet` in between.
    """
    other = api_server(issuers=[kube_137.service_account_issuer])
    stranger, told = Workload.make(other).token(), list[str]()

    def sign(endpoint: CaEndpoint, token: str, csr: str, ttl: int) -> list[str]:
        if told[-1].endswith("another cluster's token is refused"):
            with pytest.raises(MeshpkiError):
                sign_once(endpoint, stranger, csr, ttl)  # somebody else comes with a key that it does not know
        return sign_once(endpoint, token, csr, ttl)

    with proofs.ca_for(tmp_path, proofs.cluster_settings(kube_137, tmp_path, how, keys_from_server=True)) as ca:
        report = proofs.proven(kube_137, ca, other=other, progress=told.append, sign=sign)
    assert report.passed, report.failed
    assert the(report, "another cluster").detail == "UNAUTHENTICATED: token_unknown_key"
    assert "the CA has not looked for the token's key yet; it is asked again" in told


@pytest.mark.xdist_group("kube-137")
def test_a_mesh_token_that_opens_the_api_server_is_a_red_finding(api_server: ApiServerPool, tmp_path: Path) -> None:
    server = api_server("v1.37.2", "--api-audiences=https://api,istio-ca")
    with proofs.ca_for(tmp_path, proofs.cluster_settings(server, tmp_path)) as ca:
        report = proofs.proven(server, ca)
    assert [check.name for check in report.failed] == [
        "TokenReview refuses it for the API server",
        "the API server refuses it as a credential",
    ]
    for check in report.failed:
        assert check.detail.startswith("A MESH TOKEN OPENS THE API SERVER")


def test_the_founding_age_without_token_requests(kube_113_without_requests: ApiServer) -> None:
    server = kube_113_without_requests
    report = proofs.proven(server, CaEndpoint("127.0.0.1:1", "x", make_authority().root_pem))
    failed = the(report, "TokenRequest:")
    assert failed.verdict is Verdict.FAILED
    assert "meshpki detect" in failed.detail
    assert the(report, "confirms").verdict is Verdict.SKIPPED
    assert the(report, CLEAN).passed
    assert proofs.left(server) == []


def test_a_ca_of_another_cluster(kube_137: ApiServer, tmp_path: Path) -> None:
    """It refuses all: that is no proof of anything, and its reasons say so."""
    settings = proofs.cluster_settings(kube_137, tmp_path)
    mine = json.loads(kube_137.jwks())
    mine["keys"][0]["kid"] = "another"
    assert settings.jwks is not None
    assert settings.jwks.file is not None
    settings.jwks.file.write_text(json.dumps(mine))
    with proofs.ca_for(tmp_path, settings) as ca:
        report = proofs.proven(kube_137, ca)
    failed = [check.name for check in report.failed]
    assert failed == [
        "default/meshpki-verify gets a certificate for it",
        "a token for another audience is refused",
        "the same token signed by another key is refused",
    ]
    assert the(report, "pod is gone").verdict is Verdict.SKIPPED


def test_a_ca_that_is_away_refuses_nothing(kube_137: ApiServer) -> None:
    """And that it is away is told once."""
    report = proofs.proven(kube_137, CaEndpoint("127.0.0.1:1", "istio-ca.test", make_authority().root_pem))
    of_ca = [check for check in report.checks if "is refused" in check.name or "certificate" in check.name]
    assert [check.name for check in of_ca if check.passed] == []
    (check,) = report.failed
    assert check.name == "default/meshpki-verify gets a certificate for it"
    assert "UNAVAILABLE" in check.detail
    assert "check that the CA is running" in check.detail
    assert len([check for check in of_ca if check.detail == "there is no answer from the CA"]) == 5
    assert the(report, "confirms").passed
    assert proofs.left(kube_137) == []


def test_no_part_of_a_token_is_in_the_report(kube_137: ApiServer, tmp_path: Path) -> None:
    seen: list[str] = []

    def spy(endpoint: CaEndpoint, token: str, csr: str, ttl: int) -> list[str]:
        seen.append(token)
        return sign_once(endpoint, token, csr, ttl)

    with proofs.ca_for(tmp_path, proofs.cluster_settings(kube_137, tmp_path)) as ca, proofs.token_controller(kube_137):
        text = repr(proofs.proven(kube_137, ca, sign=spy, legacy_seconds=60.0))
    tokens = [token for token in seen if token.count(".") == 2]
    assert len(tokens) == 6
    for token in tokens:
        for part in token.split("."):
            assert part not in text
