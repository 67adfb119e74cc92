"""How clusters stand, what their reviews cost and how they end, as metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import GaugeMetricFamily, HistogramMetricFamily, Metric

from meshpki.tokens.review_counts import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from meshpki.ca.server.cluster_watch import Lookout
    from meshpki.tokens.reviewer import TokenReviewer


class ReviewMetrics:
    """A collector for the registry of the server's metrics; shows nothing of reviews where no cluster is reviewed."""

    def __init__(self, reviewers: Sequence[TokenReviewer], lookout: Lookout) -> None:
        self._reviewers = reviewers
        self._lookout = lookout

    def collect(self) -> Iterator[Metric]:
        """Everything, as the client library wants it."""
        counts = Metric(
            "meshpki_ca_token_reviews", "Tokens that an API server had to judge, by how it ended", "unknown"
        )
        words = "Time of one request to an API server about a token"
        latency = HistogramMetricFamily("meshpki_ca_token_review_seconds", words, labels=["cluster"])
        for reviewer in self._reviewers:
            numbers = reviewer.counts.now()
            for outcome, number in numbers.outcomes.items():
                counts.add_sample(counts.name, {"cluster": reviewer.cluster, "outcome": outcome.value}, number)
            bounds = [*(str(bound) for bound in BUCKETS), "+Inf"]
            buckets = list(zip(bounds, numbers.buckets, strict=True))
            latency.add_metric([reviewer.cluster], buckets, numbers.seconds)
        words = "Why the API server of a cluster cannot be asked about tokens now"
        failing = GaugeMetricFamily("meshpki_ca_token_reviews_failing", words, labels=["cluster", "cause"])
        for reviewer in self._reviewers:
            if (failure := reviewer.failure) is not None:
                failing.add_metric([reviewer.cluster, failure.cause.value], 1)
        words = "Whether the tokens of a cluster could be judged at least once since the start"
        ready = GaugeMetricFamily("meshpki_ca_cluster_ready", words, labels=["cluster"])
        for cluster in self._lookout.clusters:
            ready.add_metric([cluster.name], float(cluster.ready))
        words = "Clusters that share an issuer and a key: tokens by it are refused"
        alike = GaugeMetricFamily("meshpki_ca_clusters_alike", words, labels=["cluster", "other"])
        for one, other in self._lookout.apart.pairs():
            alike.add_metric([one, other], 1)
        yield from (counts, latency, failing) if self._reviewers else ()
        yield from (ready, alike)
