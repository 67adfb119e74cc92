"""Whether an installation runs as wanted: what is still missing, in words. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.hooks import Health
from meshpki.identity import ServiceAccountRef, SpiffeId, TrustDomain
from meshpki_local.specs import agent_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from meshpki_local.agent_status import AgentStatus
    from meshpki_local.children import ChildSpec
    from meshpki_local.run_file import ChildRecord, RunRecord
    from meshpki_local.settings import Settings

HOPELESS_FAILURES: Final = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """One look from outside. `started` says when each agent began (epoch seconds), by the child's name."""

    record: RunRecord | None
    ca_ready: bool
    statuses: Mapping[ServiceAccountRef, AgentStatus | None]
    started: Mapping[str, float]
    now: float


def not_as_wanted(record: RunRecord | None, wanted: Sequence[ChildSpec], version: str) -> list[str]:
    """What the supervisor runs otherwise than wanted."""
    if record is None:
        return ["the supervisor has not said yet how it is"]
    running = {child.name: child for child in record.children}
    missing = [f"the supervisor is version {record.version}"] if record.version != version else []
    for spec in wanted:
        child = running.pop(spec.name, None)
        if child is None:
            missing.append(f"{spec.name} is not started yet")
        elif child.phase != "running":
            missing.append(f"{spec.name} is {child.phase}{_why(child)}")
        elif child.fingerprint != spec.fingerprint:
            missing.append(f"{spec.name} runs with another configuration")
    return [*missing, *(f"{name} still runs" for name in running), *record.problems]


def _why(child: ChildRecord) -> str:
    return f" to be started again, failure {child.failures}: {child.reason}" if child.failures else ""


def is_hopeless(record: RunRecord | None) -> bool:
    """Whether a child failed so often in a row that waiting longer tells nothing new."""
    return record is not None and any(child.failures >= HOPELESS_FAILURES for child in record.children)


def not_healthy(seen: Seen, wanted: Sequence[ChildSpec], settings: Settings, version: str) -> list[str]:
    """What stands between this and an installation in which every workload has its certificate."""
    missing = not_as_wanted(seen.record, wanted, version)
    if not seen.ca_ready:
        missing.append("the CA is not ready")
    for account in settings.workloads:
        if problem := _certificate_problem(account, seen, settings):
            missing.append(f"{account} {problem}")
    return missing


def _certificate_problem(account: ServiceAccountRef, seen: Seen, settings: Settings) -> str:
    status = seen.statuses.get(account)
    # Ticks of the process table and of the file system differ by some hundredths of a second.
    if status is None or status.written_at < seen.started.get(agent_of(account, settings), 0.0) - 0.1:
        return "has no certificate yet"
    health = status.at(seen.now)
    if health is not Health.FRESH:
        return f"is {health}" + (f": {status.failure}" if status.failure else "")
    wanted = str(SpiffeId.for_service_account(TrustDomain(settings.trust_domain), account))
    return "" if status.spiffe_id == wanted else f"has a certificate for {status.spiffe_id}, not {wanted}"
