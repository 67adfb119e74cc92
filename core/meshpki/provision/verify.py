"""Proof from outside that an installation gives identities to those who may have them, and to nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError
from meshpki.hooks import Health
from meshpki.identity import SpiffeId, TrustDomain
from meshpki.provision.ca_questions import (
    GARBAGE,
    LIFETIME_SECONDS,
    OTHER_AUDIENCE,
    CaQuestions,
    default_sign,
    new_request,
)
from meshpki.provision.checks import Check, Verdict, VerifyReport, failed, settled, skipped
from meshpki.tokens.reasons import TokenReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.hooks import CaEndpoint, Probe, Progress, WorkloadStatus
    from meshpki.identity import ServiceAccountRef
    from meshpki.provision.ca_questions import Sign

__all__ = ["GARBAGE", "MAX_ROUNDS", "Check", "Verdict", "VerifyReport", "verify"]
MAX_ROUNDS: Final = 20
"""Workloads for which a certificate is asked for; the others are looked at only."""


def verify(probe: Probe, now: float, *, sign: Sign | None = None, progress: Progress | None = None) -> VerifyReport:
    """Make every check; a failure is part of the report and stops nothing else.

    `now` is epoch seconds; `sign` is `agent.ca_client.sign_once` unless given.
    """
    checks: list[Check] = []
    for check in _checks(probe, now, sign or default_sign()):
        checks.append(check)
        if progress is not None:
            progress(f"{check.verdict}: {check.name}")
    return VerifyReport(tuple(checks))


def _checks(probe: Probe, now: float, sign: Sign) -> Iterator[Check]:
    try:
        components, workloads = tuple(probe.components()), tuple(probe.workloads())
        endpoint = probe.ca()
    except MeshpkiError as error:
        yield failed("the installation can be examined", error)
        return
    for component in components:
        well = component.health is Health.RUNNING
        yield settled(f"{component.name} is running", well, f"{component.health} {component.detail}".strip())
    if not workloads:
        yield skipped("a workload can be tried", "no workload is provisioned")
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
    return settled(name, workload.health is Health.FRESH and workload.spiffe_id == str(wanted), detail)


def _round(probe: Probe, endpoint: CaEndpoint, account: ServiceAccountRef, now: float, sign: Sign) -> Check:
    name = f"{account.namespace}/{account.name} gets a certificate for a good token"
    try:
        token = probe.mint(account, audience=probe.audience, lifetime_seconds=LIFETIME_SECONDS)
        wanted = _spiffe_id(probe.trust_domain, account)
        said = CaQuestions(endpoint, sign, new_request()).certificate(token, wanted, now)
    except MeshpkiError as error:
        return failed(name, error)
    return Check(name, Verdict.PASSED, said)


def _refusals(probe: Probe, endpoint: CaEndpoint, account: ServiceAccountRef, sign: Sign) -> Iterator[Check]:
    def mint(audience: str, lifetime_seconds: int) -> Callable[[], str]:
        return lambda: probe.mint(account, audience=audience, lifetime_seconds=lifetime_seconds)

    ca = CaQuestions(endpoint, sign, new_request())
    for what, token, reason in (
        ("a token for another audience", mint(OTHER_AUDIENCE, LIFETIME_SECONDS), TokenReason.WRONG_AUDIENCE),
        ("a request without a token", lambda: "", TokenReason.MISSING),
        ("a token that is garbage", lambda: GARBAGE, TokenReason.MALFORMED),
        ("an expired token", mint(probe.audience, -LIFETIME_SECONDS), TokenReason.EXPIRED),
    ):
        yield ca.refusal(f"{what} is refused", token, reason)


def _spiffe_id(trust_domain: str, account: ServiceAccountRef) -> SpiffeId:
    return SpiffeId.for_service_account(TrustDomain(trust_domain), account)
