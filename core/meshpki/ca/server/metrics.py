"""What the CA counts: under istio's names, so that existing dashboards and alerts work, and under a few of our own.

Istio's names are those of its security/pkg/server/ca/monitoring.go, without the `_total` that the client library would
append; so the counters are kept here, as plain numbers behind one lock, and only shown through the library.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from enum import StrEnum
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric

from meshpki.ca.credential import CredentialKind
from meshpki.ca.server.calls.sent_away import SentAway

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Outcome(StrEnum):
    """How a request for a certificate ended; the value is the metric that counts it."""

    ISSUED = "citadel_server_success_cert_issuance_count"
    AUTHENTICATION = "citadel_server_authentication_failure_count"
    """The credential was refused, or could not be judged."""
    CSR = "citadel_server_csr_parsing_err_count"
    """The request or its CSR was refused."""
    IDENTITY = "citadel_server_id_extraction_err_count"
    """The caller asked for an identity that it does not get."""
    SIGNING = "citadel_server_csr_sign_err_count"
    """Ours: no certificate could be made, or its record not be kept."""


_WORDS: Final = {
    Outcome.ISSUED: "Certificates issued",
    Outcome.AUTHENTICATION: "Requests whose credential was refused or could not be judged",
    Outcome.CSR: "Requests whose CSR was refused",
    Outcome.IDENTITY: "Requests for an identity that the caller does not get",
    Outcome.SIGNING: "Failures to issue, by error",
}


class CaMetrics:
    """The counters of one server, in a registry of its own. Safe for threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._lock = threading.Lock()
        self._outcomes: Counter[tuple[CredentialKind, Outcome]] = Counter()
        self._refused_reports: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self._sign_errors: Counter[str] = Counter()
        self._buckets = [0] * (len(LATENCY_BUCKETS) + 1)
        self._seconds = 0.0
        self._gauges: list[tuple[str, str, Callable[[], float]]] = []
        self._families: list[tuple[str, str, str, Callable[[], Mapping[str, float]]]] = []
        self.sent_away = SentAway()
        self.registry.register(self)

    def issued(self, seconds: float, credential: CredentialKind = CredentialKind.TOKEN) -> None:
        """Count a certificate that took so long from request to answer, and by what its holder proved itself."""
        bucket = bisect_left(LATENCY_BUCKETS, seconds)
        with self._lock:
            self._outcomes[credential, Outcome.ISSUED] += 1
            self._buckets[bucket] += 1
            self._seconds += seconds

    def failed(self, outcome: Outcome, reason: str, credential: CredentialKind = CredentialKind.TOKEN) -> None:
        """Count a request without a certificate, under the reason that answer, log and audit record show."""
        with self._lock:
            self._outcomes[credential, outcome] += 1
            self._reasons[reason] += 1
            if outcome is Outcome.SIGNING:
                self._sign_errors[reason] += 1

    def report_failed(self, reason: str) -> None:
        """Count a report of a trust bundle that was refused."""
        with self._lock:
            self._refused_reports[reason] += 1

    def gauge(self, name: str, words: str, read: Callable[[], float]) -> None:
        """Show what `read` says at every scrape."""
        self._gauges.append((name, words, read))

    def gauges(self, name: str, words: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """Show at every scrape what `read` says, by the values of one label; it has to keep them few."""
        self._families.append((name, words, label, read))

    def count(self, outcome: Outcome, credential: CredentialKind | None = None) -> int:
        """How many requests ended so; with one kind of credential, or with any."""
        kinds = CredentialKind if credential is None else (credential,)
        with self._lock:
            return sum(self._outcomes[kind, outcome] for kind in kinds)

    def collect(self) -> Iterator[Metric]:
        """Everything, as the client library wants it."""
        with self._lock:
            ends, reasons, errors = self._outcomes.copy(), self._reasons.copy(), self._sign_errors.copy()
            refused_reports = self._refused_reports.copy()
            buckets, seconds = list(accumulate(self._buckets)), self._seconds
        outcomes: Counter[Outcome] = Counter()
        for (_, outcome), number in ends.items():
            outcomes[outcome] += number
        yield _counter("citadel_server_csr_count", "Certificate requests", {(): outcomes.total()})
        for outcome, words in _WORDS.items():
            if outcome is not Outcome.SIGNING:
                yield _counter(outcome, words, {(): outcomes[outcome]})
        yield _counter(Outcome.SIGNING, _WORDS[Outcome.SIGNING], _labelled(errors), "error")
        yield _counter("meshpki_ca_failures", "Requests without a certificate, by reason", _labelled(reasons), "reason")
        by_credential: dict[tuple[str, ...], int] = {
            (kind.value, outcome.name.lower()): number for (kind, outcome), number in ends.items()
        }
        words = "Certificate requests, by the kind of credential and how they ended"
        yield _counter("meshpki_ca_requests", words, by_credential, "credential", "outcome")
        words = "Reports of a trust bundle that were refused, by reason"
        yield _counter("meshpki_ca_bundle_reports_refused", words, _labelled(refused_reports), "reason")
        words = "Calls of any method that were sent away because there was too much at once, by reason"
        yield _counter("meshpki_ca_sent_away", words, _labelled(Counter(self.sent_away.counts())), "reason")
        bounds = [*(str(bound) for bound in LATENCY_BUCKETS), "+Inf"]
        yield HistogramMetricFamily(
            "meshpki_ca_issuance_seconds",
            "Time from a request to its certificate",
            buckets=list(zip(bounds, buckets, strict=True)),
            sum_value=seconds,
        )
        for name, words, read in self._gauges:
            yield GaugeMetricFamily(name, words, read())
        for name, words, label, read_all in self._families:
            family = GaugeMetricFamily(name, words, labels=[label])
            for value, reading in read_all().items():
                family.add_metric([value], reading)
            yield family


def _labelled(counts: Counter[str]) -> dict[tuple[str, ...], int]:
    return {(key,): value for key, value in counts.items()}


def _counter(name: str, words: str, values: dict[tuple[str, ...], int], *labels: str) -> Metric:
    metric = Metric(name, words, "unknown")
    for key, value in values.items():
        metric.add_sample(name, dict(zip(labels, key, strict=True)), value)
    return metric
