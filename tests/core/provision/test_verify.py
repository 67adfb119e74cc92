"""The proof from outside: passes against our real CA server, fails for everything that a bad one could do."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache

import pytest

from meshpki.agent.renewal.ca_client import CaRefusedError, CaUnavailableError, sign_once
from meshpki.errors import MachineError, RefusedError
from meshpki.hooks import CaEndpoint, ComponentStatus, Health, WorkloadStatus
from meshpki.identity import ServiceAccountRef
from meshpki.provision.verify import GARBAGE, Check, Verdict, VerifyReport, verify
from meshpki.tokens.reasons import TokenReason
from support import ca_server
from support.authority import TestAuthority, make_authority
from support.tokens import TokenMaker

WEB = ServiceAccountRef("default", "web")
FRESH = WorkloadStatus(WEB, Health.FRESH, "spiffe://mesh.local/ns/default/sa/web")


@dataclass
class FakeProbe:
    """Knows an endpoint and a token maker."""

    endpoint: CaEndpoint
    maker: TokenMaker = field(default_factory=TokenMaker)
    expired: bool = True
    parts: tuple[ComponentStatus, ...] = (ComponentStatus("ca", Health.RUNNING, "pid 7"),)
    served: tuple[WorkloadStatus, ...] = (FRESH,)
    audience: str = "istio-ca"
    trust_domain: str = "mesh.local"
    failing: str = ""

    def ca(self) -> CaEndpoint:
        if self.failing == "ca":
            raise MachineError("nothing is installed")
        return self.endpoint

    def mint(self, account: ServiceAccountRef, *, audience: str, lifetime_seconds: int) -> str:
        if self.failing == "mint":
            raise MachineError("no key")
        if lifetime_seconds < 0 and not self.expired:
            raise RefusedError("an API server issues no expired tokens")
        start = time.time() if lifetime_seconds > 0 else time.time() + 2 * lifetime_seconds
        token = self.maker.token(
            now=start,
            lifetime=abs(lifetime_seconds),
            audience=(audience,),
            namespace=account.namespace,
            name=account.name,
        )
        return token.decode()

    def components(self) -> Sequence[ComponentStatus]:
        return self.parts

    def workloads(self) -> Sequence[WorkloadStatus]:
        return self.served


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeProbe]:
    with ca_server.running(tmp_path_factory.mktemp("ca")) as ca:
        endpoint = CaEndpoint(ca.server.address, ca_server.SERVER_NAME, ca.authority.root_pem)
        yield FakeProbe(endpoint, ca.maker)


def verdicts(report: VerifyReport) -> dict[str, Verdict]:
    return {check.name: check.verdict for check in report.checks}


def the(report: VerifyReport, words: str) -> Check:
    (check,) = [check for check in report.checks if words in check.name]
    return check


def test_our_ca_passes_every_check(real: FakeProbe) -> None:
    lines: list[str] = []
    report = verify(real, time.time(), progress=lines.append)
    assert report.passed, report.failed
    assert verdicts(report) == {
        "ca is running": Verdict.PASSED,
        "default/web is served its identity": Verdict.PASSED,
        "default/web gets a certificate for a good token": Verdict.PASSED,
        "a token for another audience is refused": Verdict.PASSED,
        "a request without a token is refused": Verdict.PASSED,
        "a token that is garbage is refused": Verdict.PASSED,
        "an expired token is refused": Verdict.PASSED,
    }
    assert the(report, "gets a certificate").detail.startswith("spiffe://mesh.local/ns/default/sa/web until ")
    assert the(report, "another audience").detail == "UNAUTHENTICATED: token_wrong_audience"
    assert the(report, "without").detail == "UNAUTHENTICATED: token_missing"
    assert the(report, "garbage").detail == "UNAUTHENTICATED: token_malformed"
    assert the(report, "expired").detail == "UNAUTHENTICATED: token_expired"
    assert len(lines) == len(report.checks)


def test_no_part_of_a_token_is_in_the_report(real: FakeProbe) -> None:
    seen: list[str] = []

    def spy(endpoint: CaEndpoint, token: str, csr: str, ttl: int) -> Sequence[str]:
        seen.append(token)
        return sign_once(endpoint, token, csr, ttl)

    text = repr(verify(real, time.time(), sign=spy))
    for token in seen:
        for part in token.split("."):
            assert part in {"", GARBAGE} or part not in text


def test_where_no_expired_token_can_be_had_the_check_is_skipped_and_says_so(real: FakeProbe) -> None:
    report = verify(replace(real, expired=False), time.time())
    assert the(report, "expired").verdict is Verdict.SKIPPED
    assert "an API server issues no expired tokens" in the(report, "expired").detail
    assert report.passed


def test_a_ca_that_is_away_fails_each_check_that_needs_it(real: FakeProbe) -> None:
    gone = replace(real, endpoint=replace(real.endpoint, address="127.0.0.1:1"))
    report = verify(gone, time.time())
    assert not report.passed
    assert {check.verdict for check in report.checks[2:]} == {Verdict.FAILED}, "an outage is no refusal"


def test_a_ca_that_stands_under_another_root_fails(real: FakeProbe) -> None:
    other = replace(real, endpoint=replace(real.endpoint, roots_pem=make_authority().root_pem))
    assert the(verify(other, time.time()), "gets a certificate").verdict is Verdict.FAILED


Answer = Callable[[str, str], Sequence[str]]


@cache
def authority() -> TestAuthority:
    return make_authority()


def good(token: str, csr: str) -> list[str]:
    return list(authority().issue("default/web", csr=csr).cert_chain)


def refusing(status: str, reason: str) -> Answer:
    def answer(token: str, csr: str) -> Sequence[str]:
        raise CaRefusedError(status, reason, f"{status}: {reason}", todo="")

    return answer


def away(token: str, csr: str) -> Sequence[str]:
    raise CaUnavailableError("UNAVAILABLE", "no answer", todo="")


def tried(answer: Answer, **change: object) -> VerifyReport:
    endpoint = CaEndpoint("127.0.0.1:1", "ca", authority().root_pem)
    probe = replace(FakeProbe(endpoint), **change)  # type: ignore[arg-type]  # fields by name
    return verify(probe, time.time(), sign=lambda endpoint, token, csr, ttl: answer(token, csr))


def test_a_ca_that_signs_for_everyone_fails_every_refusal() -> None:
    report = tried(good)
    assert [check.detail for check in report.failed] == ["the CA issued a certificate for it"] * 4


@pytest.mark.parametrize(
    "answer",
    [
        away,
        refusing("UNAUTHENTICATED", "token_unknown_issuer"),
        refusing("PERMISSION_DENIED", "token_wrong_audience"),
        refusing("INVALID_ARGUMENT", "token_expired"),
    ],
)
def test_a_refusal_counts_only_with_the_right_status_and_reason(answer: Answer) -> None:
    report = tried(answer)
    assert {check.verdict for check in report.checks if "refused" in check.name} == {Verdict.FAILED}


@pytest.mark.parametrize("reason", list(TokenReason))
def test_each_refusal_wants_a_reason_of_its_own(reason: TokenReason) -> None:
    report = tried(refusing("UNAUTHENTICATED", reason))
    passed = [check.name for check in report.checks if "refused" in check.name and check.passed]
    wanted = {
        TokenReason.WRONG_AUDIENCE: ["a token for another audience is refused"],
        TokenReason.MISSING: ["a request without a token is refused"],
        TokenReason.MALFORMED: ["a token that is garbage is refused"],
        TokenReason.EXPIRED: ["an expired token is refused"],
    }
    assert passed == wanted.get(reason, [])


BAD_CHAINS: dict[str, tuple[Answer, str]] = {
    "nothing": (lambda token, csr: [], "no certificate chain"),
    "garbage": (lambda token, csr: ["x"], "no certificate chain"),
    "another key": (lambda token, csr: list(authority().issue("default/web").cert_chain), "another key"),
    "another identity": (lambda token, csr: list(authority().issue("default/api", csr=csr).cert_chain), "sa/api"),
    "no root": (lambda token, csr: good(token, csr)[:-1], "not among those given"),
    "no middle": (lambda token, csr: [good(token, csr)[0], good(token, csr)[-1]], "does not verify"),
    "another root": (lambda token, csr: list(make_authority().issue(csr=csr).cert_chain), "not among those given"),
    "another root's leaf": (
        lambda token, csr: [make_authority().issue(csr=csr).cert_chain[0], *good(token, csr)[1:]],
        "does not verify",
    ),
    "upside down": (lambda token, csr: good(token, csr)[::-1], "another key"),
    "huge": (lambda token, csr: ["x" * 300_000], "more than"),
    "endless": (lambda token, csr: [good(token, csr)[0], *good(token, csr)[1:] * 10], "at most 10"),
}


@pytest.mark.parametrize("name", BAD_CHAINS)
def test_a_bad_answer_is_not_taken_for_an_identity(name: str) -> None:
    answer, seen = BAD_CHAINS[name]
    report = tried(answer)
    check = the(report, "gets a certificate")
    assert check.verdict is Verdict.FAILED
    assert seen in check.detail


def test_a_certificate_that_has_expired_is_not_taken_for_an_identity() -> None:
    old = make_authority(now=time.time() - 200_000)

    def answer(token: str, csr: str) -> Sequence[str]:
        return list(old.issue(csr=csr, now=time.time() - 100_000).cert_chain)

    report = tried(answer, endpoint=CaEndpoint("127.0.0.1:1", "ca", old.root_pem))
    check = the(report, "gets a certificate")
    assert check.verdict is Verdict.FAILED
    assert "the leaf is valid from" in check.detail


@pytest.mark.parametrize(
    "served",
    [
        replace(FRESH, health=Health.OVERDUE),
        replace(FRESH, health=Health.EXPIRED),
        replace(FRESH, health=Health.DENIED),
        replace(FRESH, spiffe_id=""),
        replace(FRESH, spiffe_id="spiffe://mesh.local/ns/default/sa/admin"),
    ],
)
def test_a_workload_that_is_not_served_its_own_fresh_identity_fails(served: WorkloadStatus) -> None:
    assert the(tried(good, served=(served,)), "is served").verdict is Verdict.FAILED


def test_a_component_that_stopped_fails() -> None:
    check = the(tried(good, parts=(ComponentStatus("supervisor", Health.STOPPED, "gone"),)), "supervisor")
    assert (check.verdict, check.detail) == (Verdict.FAILED, "stopped gone")


@pytest.mark.parametrize(("failing", "count"), [("ca", 1), ("mint", 7)])
def test_what_cannot_be_examined_fails_and_is_no_accident(failing: str, count: int) -> None:
    report = tried(good, failing=failing)
    assert not report.passed
    assert len(report.checks) == count


def test_nothing_to_try_proves_nothing() -> None:
    report = tried(good, served=(), parts=())
    assert [check.verdict for check in report.checks] == [Verdict.SKIPPED]
    assert not report.passed
