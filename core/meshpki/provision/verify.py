"""Proof from outside that an installation gives identities to those who may have them, and to nobody else."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError, RefusedError
from meshpki.hooks import Health
from meshpki.identity import SpiffeId, TrustDomain
from meshpki.provision import svid
from meshpki.tokens.reasons import TokenReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TypeAlias

    from meshpki.hooks import CaEndpoint, Probe, Progress, WorkloadStatus
    from meshpki.identity import ServiceAccountRef

    Sign: TypeAlias = Callable[[CaEndpoint, str, str, int], Sequence[str]]
    """(endpoint, token, CSR in PEM, seconds) -> chain in PEM, leaf first: `agent.ca_client.sign_once`."""

LIFETIME_SECONDS: Final = 600
"""The shortest that a Kubernetes API server gives (TokenRequest)."""
OTHER_AUDIENCE: Final = "meshpki-verify.another-audience"
GARBAGE: Final = "this-is-no-token"
MAX_ROUNDS: Final = 20
"""Workloads for which a certificate is asked for; the others are looked at only."""


class Verdict(StrEnum):
    """How a check came out."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It cannot be made here; the detail says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was tried, how it came out, what was seen."""

    name: str
    verdict: Verdict
    detail: str
    evidence: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """False for a failed or skipped one."""
        return self.verdict is Verdict.PASSED


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Every check, in the order in which it was made."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True when nothing failed and something passed."""
        return not self.failed and any(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)


def verify(probe: Probe, now: float, *, sign: Sign | None = None, progress: Progress | None = None) -> VerifyReport:
    """Make every check; a failure is part of the report and stops nothing else.

    `now` is epoch seconds; `sign` is `agent.ca_client.sign_once` unless given.
    """
    checks: list[Check] = []
    for check in _checks(probe, now, sign or _default_sign()):
        checks.append(check)
        if progress is not None:
            progress(f"{check.verdict}: {check.name}")
    return VerifyReport(tuple(checks))


def _default_sign() -> Sign:
    from meshpki.agent.ca_client import sign_once

    return sign_once


def _checks(probe: Probe, now: float, sign: Sign) -> Iterator[Check]:
    try:
        components, workloads = tuple(probe.components()), tuple(probe.workloads())
        endpoint = probe.ca()
    except MeshpkiError as error:
        yield _failed("the installation can be examined", error)
        return
    for component in components:
        well = component.health is Health.RUNNING
        yield _check(f"{component.name} is running", well, f"{component.health} {component.detail}".strip())
    if not workloads:
        yield Check("a workload can be tried", Verdict.SKIPPED, "no workload is provisioned")
        return
    for workload in workloads:
        yield _check_served(workload, probe.trust_domain)
    for workload in workloads[:MAX_ROUNDS]:
        yield _round(probe, endpoint, workload.account, now, sign)
    yield from _refusals(probe, endpoint, workloads[0].account, sign)


def _check_served(workload: WorkloadStatus, trust_domain: str) -> Check:
    wanted = _spiffe_id(trust_domain, workload.account)
    name = f"{workload.account.namespace}/{workload.account.name} is served its identity"
    detail = f"{workload.health} {workload.spiffe_id} {workload.detail}".strip()
    return _check(name, workload.health is Health.FRESH and workload.spiffe_id == str(wanted), detail)


def _round(probe: Probe, endpoint: CaEndpoint, account: ServiceAccountRef, now: float, sign: Sign) -> Check:
    name = f"{account.namespace}/{account.name} gets a certificate for a good token"
    try:
        csr, spki = _request()
        token = probe.mint(account, audience=probe.audience, lifetime_seconds=LIFETIME_SECONDS)
        chain = sign(endpoint, token, csr, LIFETIME_SECONDS)
        wanted = _spiffe_id(probe.trust_domain, account)
        said = svid.examine(chain, spiffe_id=wanted, spki=spki, roots_pem=endpoint.roots_pem, now=now)
    except MeshpkiError as error:
        return _failed(name, error)
    return Check(name, Verdict.PASSED, said)


def _refusals(probe: Probe, endpoint: CaEndpoint, account: ServiceAccountRef, sign: Sign) -> Iterator[Check]:
    def mint(audience: str, lifetime_seconds: int) -> Callable[[], str]:
        return lambda: probe.mint(account, audience=audience, lifetime_seconds=lifetime_seconds)

    csr, _ = _request()
    for what, token, reason in (
        ("a token for another audience", mint(OTHER_AUDIENCE, LIFETIME_SECONDS), TokenReason.WRONG_AUDIENCE),
        ("a request without a token", lambda: "", TokenReason.MISSING),
        ("a token that is garbage", lambda: GARBAGE, TokenReason.MALFORMED),
        ("an expired token", mint(probe.audience, -LIFETIME_SECONDS), TokenReason.EXPIRED),
    ):
        yield _refusal(f"{what} is refused", token, reason, lambda given: sign(endpoint, given, csr, LIFETIME_SECONDS))


def _refusal(name: str, make: Callable[[], str], reason: TokenReason, send: Callable[[str], Sequence[str]]) -> Check:
    """Pass only if the CA answered UNAUTHENTICATED for this very reason: an outage is no refusal."""
    from meshpki.agent.ca_client import CaRefusedError

    try:
        token = make()
    except RefusedError as error:
        return Check(name, Verdict.SKIPPED, f"this platform does not make such a token: {error.seen}")
    except MeshpkiError as error:
        return _failed(name, error)
    try:
        send(token)
    except CaRefusedError as error:
        well = error.status == "UNAUTHENTICATED" and error.reason == reason.value
        detail = f"{error.status}: {error.reason}" + ("" if well else f", wanted UNAUTHENTICATED: {reason}")
        return _check(name, well, detail, (error.seen,))
    except MeshpkiError as error:
        return _failed(name, error)
    return Check(name, Verdict.FAILED, "the CA issued a certificate for it")


def _request() -> tuple[str, bytes]:
    """Make a throw-away key; return its CSR in PEM and its public key in DER."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    key = ec.generate_private_key(ec.SECP256R1())
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return csr.public_bytes(Encoding.PEM).decode(), spki


def _spiffe_id(trust_domain: str, account: ServiceAccountRef) -> SpiffeId:
    return SpiffeId.for_service_account(TrustDomain(trust_domain), account)


def _check(name: str, well: bool, detail: str, evidence: tuple[str, ...] = ()) -> Check:
    return Check(name, Verdict.PASSED if well else Verdict.FAILED, detail, evidence)


def _failed(name: str, error: MeshpkiError) -> Check:
    return Check(name, Verdict.FAILED, str(error), error.evidence)
