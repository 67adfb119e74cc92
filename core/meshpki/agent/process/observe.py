"""What the agent shows of itself over HTTP: /livez, /readyz and /metrics, for one identity or a thousand.

Everything is asked for in the event loop, so that nothing is read while it changes, and /livez is the proof that the
loop still turns. Nothing runs between two questions.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import Counter
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

import meshpki
from meshpki.agent.renewal.ledger import UNNAMED, Count
from meshpki.agent.rotation.failure import FailureKind
from meshpki.health import Health
from meshpki.runtime.http import Answer, HttpServer, health_page, metrics_page

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from meshpki.agent.files.standing import FilesStanding
    from meshpki.agent.renewal.keeper import KeeperStatus
    from meshpki.agent.renewal.renewing_source import TokenFault
    from meshpki.agent.rotation.failure import Failure

LOOP_SECONDS: Final = 2.0
"""An event loop that does not answer for so long is stuck."""
STATES: Final = (Health.FRESH, Health.OVERDUE, Health.EXPIRED, Health.FAILED, Health.DENIED)

T = TypeVar("T")


def not_serving(status: KeeperStatus, now: float) -> tuple[str, ...]:
    """Say why no valid certificate is served; nothing when one is. An old one that is still valid is good enough."""
    held = status.snapshot
    if held is None:
        return (f"no certificate yet: {status.health.value}",)
    if now >= held.not_after:
        return (f"the certificate expired {now - held.not_after:.0f} s ago",)
    if now < held.not_before:
        return (f"the certificate is valid in {held.not_before - now:.0f} s: compare the clocks",)
    return ()


@dataclass(frozen=True, slots=True)
class Failing:
    """Renewals that fail: whose, why, and since when (epoch seconds)."""

    spiffe_id: str
    failure: Failure
    since: float


@dataclass(frozen=True, slots=True)
class NodeCounts:
    """What a node's agent counts beside its identities."""

    refused: Mapping[str, int]
    """Tokens in the CA's word, calls in ours, since the start."""
    tokens: Mapping[str, int]
    """By phase, now."""
    waiting: Sequence[Failing] = ()
    """What keeps tokens that wait from the CA's word."""


class Observer:
    """The HTTP server of an agent, from construction to `close`. Made in the event loop that it asks."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        statuses: Callable[[], Sequence[KeeperStatus]],
        counts: Callable[[], Mapping[str, Count]],
        unready: Callable[[], tuple[str, ...]],
        node: Callable[[], NodeCounts] | None = None,
        files: Callable[[], FilesStanding | None] | None = None,
        token_fault: Callable[[], TokenFault | None] | None = None,
    ) -> None:
        """`statuses` gives every identity, `counts` what the ledger has, `unready` what keeps the agent from serving,
        `node` what only a node's agent counts, `files` how the files stand, if there are any, and `token_fault` why
        renewals go by certificate, if they do. Raises MachineError.
        """
        self._node = node
        self._files = files
        self._token_fault = token_fault
        self._loop = asyncio.get_running_loop()
        self._statuses = statuses
        self._counts = counts
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        self._server = HttpServer(
            host,
            port,
            {
                "/livez": health_page(lambda: self._in_loop(tuple[str, ...], _STUCK)),
                "/readyz": health_page(lambda: self._in_loop(unready, _STUCK)),
                "/metrics": self._unless_stuck(metrics_page(registry)),
            },
            setting="--http",
        )

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._server.port

    def close(self) -> None:
        """Stop listening. Blocks for a moment: call it in a thread."""
        self._server.close()

    def collect(self) -> Iterator[Metric]:
        """Everything, as the client library wants it; from one of the server's threads."""
        nothing = NodeCounts({}, {})
        node = self._in_loop(self._node, nothing) if self._node is not None else nothing
        yield from families(self._in_loop(self._statuses, ()), self._in_loop(self._counts, {}), node.waiting)
        if self._node is not None:
            yield turned_away(node.refused)
            yield tokens(node.tokens)
        if self._files is not None and (standing := self._in_loop(self._files, None)) is not None:
            yield from of_files(standing)
        if self._token_fault is not None:
            yield of_token(self._in_loop(self._token_fault, None))

    def _unless_stuck(self, page: Callable[[], Answer]) -> Callable[[], Answer]:
        """No metrics rather than none of any identity: those would read as if there were nothing to alert on."""

        def answer() -> Answer:
            if self._in_loop(lambda: True, stuck=False):
                return page()
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE, f"{_STUCK[0]}\n".encode())

        return answer

    def _in_loop(self, ask: Callable[[], T], stuck: T) -> T:
        answer: concurrent.futures.Future[T] = concurrent.futures.Future()

        def run() -> None:
            try:
                answer.set_result(ask())
            except BaseException as error:  # noqa: BLE001 - handed to the thread that asked
                answer.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
            return answer.result(LOOP_SECONDS)
        except (RuntimeError, concurrent.futures.TimeoutError):  # closed, or it does not turn
            return stuck


def turned_away(reasons: Mapping[str, int]) -> Metric:
    """Give the metric of what a node's agent refused."""
    words = "Tokens that the CA refused, by its reason, and calls that were turned away"
    family = CounterMetricFamily("meshpki_agent_refused", words, labels=["reason"])
    for reason, count in reasons.items():
        family.add_metric([reason], count)
    return family


def tokens(phases: Mapping[str, int]) -> Metric:
    """Give the metric of where a node's tokens stand."""
    family = GaugeMetricFamily("meshpki_agent_tokens", "Tokens by phase", labels=["phase"])
    for phase, count in phases.items():
        family.add_metric([phase], count)
    return family


def of_files(standing: FilesStanding) -> Iterator[Metric]:
    """Give the metrics of the files. Without one that was written there is no expiry: a zero would ring every alert."""
    expiry = GaugeMetricFamily(
        "meshpki_agent_files_expiration_timestamp_seconds", "When the certificate in the files expires"
    )
    if standing.ends is not None:
        expiry.add_metric([], standing.ends)
    yield expiry
    yield CounterMetricFamily(
        "meshpki_agent_files_write_failures", "Attempts to write the files that failed", value=standing.failures
    )
    yield CounterMetricFamily(
        "meshpki_agent_files_notice_failures",
        "Attempts to run the command, or to send the signal, after a change of the files that failed",
        value=standing.untold,
    )


def of_token(fault: TokenFault | None) -> Metric:
    """Give the metric of renewals by certificate, which go well until the CA wants a token again."""
    words = "Since when there is no token worth sending and renewals go by certificate, while they do"
    family = GaugeMetricFamily("meshpki_agent_token_fault_since_timestamp_seconds", words, labels=["reason"])
    if fault is not None:
        family.add_metric([fault.reason], fault.since)
    return family


_STUCK: Final = ("the event loop does not answer",)


def families(
    statuses: Iterable[KeeperStatus], counts: Mapping[str, Count], waiting: Iterable[Failing] = ()
) -> Iterator[Metric]:
    """Give the metrics. Identities of the same SPIFFE ID (two pods of one account) are shown as one, the worst of them.

    Names and units as cert-manager and the CA have them: certificate_expiration_timestamp_seconds and the like.
    """
    by_id: _ById = {}
    failing = list(waiting)
    for status in statuses:
        name = _name(status)
        by_id.setdefault(name, []).append(status)
        if status.failure is not None:
            failing.append(Failing(name, status.failure, status.failing_since))
    none = Count(0, {})
    counted = {name: counts.get(name, none) for name in sorted(by_id.keys() | counts.keys())}
    yield InfoMetricFamily("meshpki_agent", "The agent", {"version": meshpki.__version__})
    yield _gauge("expiration_timestamp_seconds", "When the served certificate expires", by_id, _expiration)
    yield _gauge("renewal_timestamp_seconds", "When the CA is asked next", by_id, _renewal)
    yield _states(by_id)
    yield _renewals(counted)
    yield _failures(counted)
    yield _failing(failing)
    yield _bundle("sequence", "Changes of the served trust bundle since the agent began", by_id, _sequence)
    yield _bundle("roots", "Roots in the served trust bundle", by_id, _roots)


def _name(status: KeeperStatus) -> str:
    return str(status.snapshot.spiffe_id) if status.snapshot else UNNAMED


def _expiration(status: KeeperStatus) -> float:
    return status.snapshot.not_after if status.snapshot else 0


def _renewal(status: KeeperStatus) -> float:
    return status.renew_at


def _sequence(status: KeeperStatus) -> float:
    return status.bundle.sequence


def _roots(status: KeeperStatus) -> float:
    return len(status.bundle.roots)


_ById = dict[str, list["KeeperStatus"]]


def _gauge(name: str, words: str, by_id: _ById, read: Callable[[KeeperStatus], float]) -> Metric:
    family = GaugeMetricFamily(f"meshpki_agent_certificate_{name}", words, labels=["spiffe_id"])
    for spiffe_id, statuses in by_id.items():
        if spiffe_id or name.startswith("renewal"):
            family.add_metric([spiffe_id], min(map(read, statuses)))
    return family


def _bundle(name: str, words: str, by_id: _ById, read: Callable[[KeeperStatus], float]) -> Metric:
    family = GaugeMetricFamily(f"meshpki_agent_bundle_{name}", words, labels=["spiffe_id"])
    for spiffe_id, statuses in by_id.items():
        family.add_metric([spiffe_id], min(map(read, statuses)))
    return family


def _states(by_id: _ById) -> Metric:
    words = "How many identities stand so; all states of an identity are shown, the others with 0"
    family = GaugeMetricFamily("meshpki_agent_certificate_state", words, labels=["spiffe_id", "state"])
    for spiffe_id, statuses in by_id.items():
        found = Counter(status.health for status in statuses)
        for state in STATES:
            family.add_metric([spiffe_id, state.value], found[state])
    return family


def _renewals(counted: Mapping[str, Count]) -> Metric:
    family = CounterMetricFamily("meshpki_agent_renewals", "Certificates obtained from the CA", labels=["spiffe_id"])
    for spiffe_id, count in counted.items():
        family.add_metric([spiffe_id], count.renewals)
    return family


def _failures(counted: Mapping[str, Count]) -> Metric:
    words = "Failed renewals, by who was at fault: token, network, verdict (of the CA), answer, machine"
    family = CounterMetricFamily("meshpki_agent_renewal_failures", words, labels=["spiffe_id", "kind"])
    for spiffe_id, count in counted.items():
        for kind in FailureKind:
            family.add_metric([spiffe_id, kind.value], count.failures.get(kind, 0))
    return family


def _failing(found: Iterable[Failing]) -> Metric:
    """Of several that fail for the same reason, the one that has for the longest."""
    since: dict[tuple[str, str, str], float] = {}
    for one in found:
        labels = (one.spiffe_id, one.failure.kind.value, one.failure.reason)
        since[labels] = min(since.get(labels, one.since), one.since)
    words = "Since when renewals fail, while they do, by who is at fault and why"
    family = GaugeMetricFamily(
        "meshpki_agent_renewal_failing_since_timestamp_seconds", words, labels=["spiffe_id", "kind", "reason"]
    )
    for labels, when in sorted(since.items()):
        family.add_metric(labels, when)
    return family
