"""A CA that is not as it should be is found out, whatever it does wrong; a real API server gives the tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cache

import pytest

from meshpki.agent.renewal.ca_client import CaRefusedError, CaUnavailableError
from meshpki.hooks import CaEndpoint
from meshpki.identity import TrustDomain
from meshpki.provision.checks import Verdict, VerifyReport
from meshpki.provision.proof.pace import Pace
from support import proofs
from support.authority import TestAuthority, make_authority
from support.kube import ApiServer

pytestmark = [pytest.mark.e2e, pytest.mark.kube]
CERTIFICATE = "default/meshpki-verify gets a certificate for it"
NEGATIVES = [
    "a token for another audience is refused",
    "a request without a token is refused",
    "a token that is garbage is refused",
    "the same token signed by another key is refused",
]
REASONS = ["token_wrong_audience", "token_missing", "token_malformed", "token_bad_signature"]
"""Of these, in their order."""
Answer = Callable[[str, str], Sequence[str]]


@cache
def authority() -> TestAuthority:
    return make_authority()


@cache
def stranger() -> TestAuthority:
    return make_authority(TrustDomain("elsewhere.test"))


def report_on(server: ApiServer, answer: Answer) -> VerifyReport:
    endpoint = CaEndpoint("ca.test:443", "ca.test", authority().root_pem)
    report = proofs.proven(server, endpoint, sign=lambda _, token, csr, __: answer(token, csr))
    assert proofs.left(server) == []
    return report


def failed(server: ApiServer, answer: Answer) -> dict[str, str]:
    return {check.name: check.detail for check in report_on(server, answer).failed}


def good(token: str, csr: str) -> list[str]:
    return list(authority().issue("default/meshpki-verify", csr=csr).cert_chain)


def refusing(status: str, reason: str) -> Answer:
    def answer(token: str, csr: str) -> Sequence[str]:
        raise CaRefusedError(status, reason, f"{status}: {reason}", todo="")

    return answer


def away(token: str, csr: str) -> Sequence[str]:
    raise CaUnavailableError("UNAVAILABLE", "no certificate: UNAVAILABLE", todo="look whether it runs")


def unable(token: str, csr: str) -> Sequence[str]:
    raise CaUnavailableError("UNAVAILABLE", "UNAVAILABLE: keys_unavailable: x", todo="wait", reason="keys_unavailable")


def test_one_that_accepts_everything(kube_137: ApiServer) -> None:
    found = failed(kube_137, good)
    assert found == dict.fromkeys(NEGATIVES, "the CA issued a certificate for it")


@pytest.mark.parametrize(
    "answer",
    [
        unable,
        refusing("UNAUTHENTICATED", "token_expired"),
        refusing("PERMISSION_DENIED", "token_wrong_audience"),
        refusing("UNAVAILABLE", "token_missing"),
    ],
    ids=["an outage behind it", "another reason", "another status", "an outage with a reason"],
)
def test_a_refusal_counts_only_with_the_right_status_and_reason(kube_137: ApiServer, answer: Answer) -> None:
    report = report_on(kube_137, answer)
    assert {check.name for check in report.failed} == {CERTIFICATE, *NEGATIVES}


@pytest.mark.parametrize("number", range(4))
def test_nobody_there_is_told_once(kube_137: ApiServer, number: int) -> None:
    """From the call on that nobody answered: what would come after it could only say the same."""
    calls: list[str] = []

    def answer(token: str, csr: str) -> Sequence[str]:
        calls.append(token)
        if len(calls) > number:
            return away(token, csr)
        if len(calls) == 1:
            return good(token, csr)
        raise CaRefusedError("UNAUTHENTICATED", REASONS[len(calls) - 2], "no", todo="")

    report = report_on(kube_137, answer)
    assert [check.name for check in report.failed] == [[CERTIFICATE, *NEGATIVES][number]]
    assert len(calls) == number + 1
    skipped = [check for check in report.checks if check.detail == "there is no answer from the CA"]
    assert [check.name for check in skipped][: 3 - number] == NEGATIVES[number:3]


BAD_CHAINS: dict[str, tuple[Answer, str]] = {
    "garbage": (lambda token, csr: ["x"], "no certificate chain"),
    "another key": (lambda token, csr: list(authority().issue("default/meshpki-verify").cert_chain), "another key"),
    "another account": (lambda token, csr: list(authority().issue("default/web", csr=csr).cert_chain), "sa/web"),
    "another root": (
        lambda token, csr: list(make_authority().issue("default/meshpki-verify", csr=csr).cert_chain),
        "not among those given",
    ),
    "another trust domain": (
        lambda token, csr: list(stranger().issue("default/meshpki-verify", csr=csr).cert_chain),
        "spiffe://elsewhere.test/ns/default/sa/meshpki-verify",
    ),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_a_bad_answer_is_not_taken_for_an_identity(kube_137: ApiServer, name: str) -> None:
    answer, seen = BAD_CHAINS[name]
    found = failed(kube_137, answer)
    assert seen in found[CERTIFICATE]


def test_an_expired_authority(kube_137: ApiServer) -> None:
    old = make_authority(now=time.time() - 200_000, issuer_seconds=100_000, root_seconds=150_000)

    def answer(token: str, csr: str) -> Sequence[str]:
        return list(old.issue("default/meshpki-verify", csr=csr, now=time.time() - 150_000).cert_chain)

    endpoint = CaEndpoint("ca.test:443", "ca.test", old.root_pem)
    report = proofs.proven(kube_137, endpoint, sign=lambda _, token, csr, __: answer(token, csr))
    (check,) = [check for check in report.failed if check.name == CERTIFICATE]
    assert "is valid from" in check.detail


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.passed = 0.0

    def pace(self) -> Pace:
        return Pace(monotonic=lambda: self.passed, sleep=self.sleep)

    def sleep(self, seconds: float) -> None:
        self.passed += seconds


@pytest.mark.parametrize(
    ("seconds", "verdict", "said"),
    [
        (0.0, Verdict.PASSED, "UNAUTHENTICATED: token_pod_gone (0 s)"),
        (31.0, Verdict.PASSED, "UNAUTHENTICATED: token_pod_gone (32 s)"),
        (61.0, Verdict.FAILED, "60 s later it still took"),
    ],
)
def test_how_soon_a_ca_hears_that_a_pod_is_gone(
    kube_137: ApiServer, seconds: float, verdict: Verdict, said: str
) -> None:
    """As one that remembers what it has seen for so long, and asks about every other token."""
    clock = Clock()
    seen: dict[str, float] = {}

    def answer(token: str, csr: str) -> Sequence[str]:
        if token.count(".") != 2:
            raise CaRefusedError("UNAUTHENTICATED", "token_missing", "no", todo="")
        if clock.passed - seen.get(token, -1000.0) < seconds:
            return good(token, csr)
        status, review = kube_137.review(token, "istio-ca")
        assert status == 201
        gone = kube_137.request("GET", "/api/v1/namespaces/default/pods/meshpki-verify")[0] == 404
        if gone:
            raise CaRefusedError("UNAUTHENTICATED", "token_pod_gone", str(review), todo="")
        seen[token] = clock.passed
        return good(token, csr)

    endpoint = CaEndpoint("ca.test:443", "ca.test", authority().root_pem)
    report = proofs.proven(kube_137, endpoint, sign=lambda _, token, csr, __: answer(token, csr), pace=clock.pace())
    (check,) = [check for check in report.checks if "pod is gone" in check.name]
    assert check.verdict is verdict
    assert said in check.detail


def test_a_round_that_takes_too_long_begins_nothing_new(kube_137: ApiServer) -> None:
    """After ten minutes another run would take what stands there for left over."""
    clock = Clock()

    def slow(token: str, csr: str) -> Sequence[str]:
        clock.sleep(400.0)
        return unable(token, csr)

    endpoint = CaEndpoint("ca.test:443", "ca.test", authority().root_pem)
    report = proofs.proven(kube_137, endpoint, sign=lambda _, token, csr, __: slow(token, csr), pace=clock.pace())
    late = [check for check in report.failed if "not begun" in check.detail]
    assert [check.name for check in late] == [*NEGATIVES[1:], "a legacy token is refused"]
    assert proofs.left(kube_137) == []


# --- a key that the CA has not looked for yet


def test_a_token_by_a_key_that_is_new_is_shown_again_too(kube_137: ApiServer) -> None:
    """As when the cluster has just changed its key."""
    clock, asked = Clock(), list[float]()

    def answer(token: str, csr: str) -> Sequence[str]:
        asked.append(clock.passed)
        if clock.passed < 8.0:
            raise CaUnavailableError("UNAVAILABLE", "not yet", todo="", reason="key_not_seen_yet")
        return good(token, csr)

    endpoint = CaEndpoint("ca.test:443", "ca.test", authority().root_pem)
    report = proofs.proven(kube_137, endpoint, sign=lambda _, token, csr, __: answer(token, csr), pace=clock.pace())
    assert CERTIFICATE not in [check.name for check in report.failed]
    assert asked[:5] == [0.0, 2.0, 4.0, 6.0, 8.0]


@pytest.mark.xdist_group("kube-137")
@pytest.mark.parametrize(
    ("seconds", "trusted", "verdict", "said"),
    [
        (0.0, False, Verdict.PASSED, "UNAUTHENTICATED: token_unknown_key"),
        (39.0, False, Verdict.PASSED, "UNAUTHENTICATED: token_unknown_key"),
        (39.0, True, Verdict.PASSED, "spiffe://mesh.local/ns/default/sa/meshpki-verify until "),
        (99.0, False, Verdict.FAILED, "not yet"),
    ],
)
def test_another_clusters_token_is_shown_again_until_the_ca_has_looked_for_its_key(
    kube_137: ApiServer, kube_130: ApiServer, seconds: float, trusted: bool, verdict: Verdict, said: str
) -> None:
    clock, told, asked = Clock(), [""], list[float]()

    def answer(token: str, csr: str) -> Sequence[str]:
        if "other cluster's" not in told[-1]:
            return good(token, csr)
        asked.append(clock.passed)
        if clock.passed - asked[0] < seconds:
            raise CaUnavailableError("UNAVAILABLE", "not yet", todo="", reason="key_not_seen_yet")
        if trusted:
            return good(token, csr)
        raise CaRefusedError("UNAUTHENTICATED", "token_unknown_key", "no", todo="")

    def say(words: str) -> None:
        if words.startswith("step "):
            told.append(words)

    endpoint = CaEndpoint("ca.test:443", "ca.test", authority().root_pem)
    report = proofs.proven(
        kube_137,
        endpoint,
        sign=lambda _, token, csr, __: answer(token, csr),
        other=kube_130,
        other_trusted=trusted,
        pace=clock.pace(),
        progress=say,
    )
    (check,) = [check for check in report.checks if "other cluster's" in check.name]
    assert (check.verdict, len(asked)) == (verdict, 1 + min(int(seconds + 1), 46) // 2)
    assert said in check.detail
    assert proofs.left(kube_130) == []
