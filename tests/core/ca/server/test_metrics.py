"""What the CA counts, and under which names it shows it."""

from __future__ import annotations

import threading

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from meshpki.ca.server.metrics import CaMetrics, Outcome


def shown(metrics: CaMetrics) -> dict[tuple[str, str], float]:
    """Sample name and label value to number, as a scraper reads them."""
    families = text_string_to_metric_families(generate_latest(metrics.registry).decode())
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
    }


def test_istios_names_without_a_suffix() -> None:
    metrics = CaMetrics()
    metrics.issued(0.004)
    metrics.failed(Outcome.AUTHENTICATION, "token_expired")
    metrics.failed(Outcome.CSR, "csr_malformed")
    metrics.failed(Outcome.IDENTITY, "identity_impersonation")
    metrics.failed(Outcome.SIGNING, "audit_unavailable")
    samples = shown(metrics)
    assert samples["citadel_server_csr_count", ""] == 5
    for outcome in Outcome:
        label = "audit_unavailable" if outcome is Outcome.SIGNING else ""
        assert samples[outcome.value, label] == 1
    for reason in ("token_expired", "csr_malformed", "identity_impersonation", "audit_unavailable"):
        assert samples["meshpki_ca_failures", reason] == 1
    assert not any(name.endswith(("_total", "_created")) for name, _ in samples)


@pytest.mark.parametrize(("seconds", "bucket"), [(0.0001, "0.0005"), (0.0005, "0.0005"), (0.3, "0.5"), (99.0, "+Inf")])
def test_the_histogram(seconds: float, bucket: str) -> None:
    metrics = CaMetrics()
    metrics.issued(seconds)
    samples = shown(metrics)
    first = min((float(label), label) for (name, label), value in samples.items() if "_bucket" in name and value)
    assert first[1] == bucket
    assert samples["meshpki_ca_issuance_seconds_count", ""] == 1
    assert samples["meshpki_ca_issuance_seconds_sum", ""] == pytest.approx(seconds)


def test_gauges_are_read_at_every_scrape() -> None:
    metrics, value = CaMetrics(), [1.0]
    metrics.gauge("meshpki_test", "A test", lambda: value[0])
    assert shown(metrics)["meshpki_test", ""] == 1
    value[0] = 2
    assert shown(metrics)["meshpki_test", ""] == 2


def test_two_servers_count_for_themselves() -> None:
    one, other = CaMetrics(), CaMetrics()
    one.issued(0.1)
    assert (one.count(Outcome.ISSUED), other.count(Outcome.ISSUED)) == (1, 0)


def test_no_count_is_lost_between_threads() -> None:
    metrics = CaMetrics()

    def work() -> None:
        for _ in range(2000):
            metrics.issued(0.001)
            metrics.failed(Outcome.CSR, "csr_malformed")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert metrics.count(Outcome.ISSUED) == metrics.count(Outcome.CSR) == 8000
