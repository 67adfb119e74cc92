"""The CA server: everything put together, started in an order that fails closed, stopped without losing a call."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from typing import TYPE_CHECKING, Final, Self

from meshpki.ca.audit.log import AuditLog
from meshpki.ca.issuer import Issuer
from meshpki.ca.server.accounts import account
from meshpki.ca.server.bundle_service import BundleService
from meshpki.ca.server.calls.lanes import aside_lane, lane
from meshpki.ca.server.calls.late_calls import LOOK_SECONDS, LateCalls
from meshpki.ca.server.calls.listener import Door, affordable
from meshpki.ca.server.calls.method_table import MethodTable
from meshpki.ca.server.calls.reception import Reception
from meshpki.ca.server.certificate_service import CertificateService
from meshpki.ca.server.cluster_watch import Lookout
from meshpki.ca.server.clusters import open_clusters, reviewers
from meshpki.ca.server.health import HealthService
from meshpki.ca.server.housekeeping import Housekeeping
from meshpki.ca.server.metrics import CaMetrics
from meshpki.ca.server.readiness import Readiness
from meshpki.ca.server.review_metrics import ReviewMetrics
from meshpki.ca.server.self_check import self_check
from meshpki.ca.server.tls import ServerTls
from meshpki.ca.signer import SoftwareSigner
from meshpki.errors import UnavailableError
from meshpki.runtime.garbage import settle
from meshpki.runtime.http import HttpServer, health_page, metrics_page
from meshpki.runtime.open_files import allow_all
from meshpki.runtime.scheduling import without_preemption
from meshpki.tokens.verify import TokenVerifier

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from meshpki.ca.config import CaConfig
    from meshpki.ca.profile import Profile
    from meshpki.ca.server.calls.lanes import Lane
    from meshpki.hooks import Signer
    from meshpki.runtime.http import Answer

_LOG = logging.getLogger(__name__)
HEED_SECONDS: Final = 1.0
"""A signal that came while the process was stopped may be any thread's, and Python's handlers run in the main one,
which would not hear of it in a wait without end."""


class CaServer:
    """One CA server in this process: `start` or raise, `stop` drains. Not to be started twice."""

    def __init__(
        self,
        config: CaConfig,
        *,
        signer: Callable[[], Signer] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`signer` opens another signer than the configured files. `clock`, epoch seconds, rules renewal and health."""
        self.config = config
        self.metrics = CaMetrics()
        self._open_signer = signer or (lambda: _software_signer(config))
        self._clock = clock
        self._closing = contextlib.ExitStack()
        self.tables: tuple[MethodTable, ...] = ()
        """Of the listener for tokens, and of the one for renewal by certificate where there is one."""
        self.address = ""
        """Where it listens for gRPC, with the port that it got."""
        self.renewal_address = ""
        """Where it listens for renewal by certificate; empty when that is off."""
        self._http_port = 0

    @property
    def http_address(self) -> str:
        """Where /livez, /readyz and /metrics are."""
        return f"{str(self.config.http).rpartition(':')[0]}:{self._http_port}"

    def start(self) -> Self:
        """Check everything, then listen. Raises MeshpkiError, and leaves nothing running then."""
        with contextlib.ExitStack() as closing:
            self._start(closing)
            self._closing = closing.pop_all()
        where = {"grpc": self.address, "http": self.http_address}
        _LOG.info("the CA serves", extra={**where, "renewal": self.renewal_address} if self.renewal_address else where)
        return self

    def stop(self) -> None:
        """Take no new calls, let those under way end within DRAIN_SECONDS, close the log. Idempotent."""
        self._closing.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _start(self, closing: contextlib.ExitStack) -> None:
        config, clock, metrics = self.config, self._clock, self.metrics
        http = HttpServer(config.http.host, config.http.port, _pages_while_starting(metrics))
        closing.callback(http.close)
        self._http_port = http.port
        profile = config.certificate_profile()
        issuer = open_issuer(self._open_signer(), profile, clock())
        clusters, proxies = open_clusters(config, closing, clock())
        lookout = Lookout(clusters, clock)
        metrics.registry.register(ReviewMetrics(reviewers(clusters), lookout))
        verifier = TokenVerifier(clusters)
        audit = AuditLog.open(
            config.audit,
            trust_domain=str(config.trust_domain),
            issuer_key_id=issuer.key_id,
            now=clock(),
        )
        closing.callback(lambda: audit.close(clock()))
        tls = ServerTls(issuer, config.server_names, audit, clock)
        readiness = Readiness(issuer, audit, lookout.clusters, clock)
        service = CertificateService(
            issuer=issuer,
            profile=profile,
            audit=audit,
            metrics=metrics,
            proxies=proxies,
            at_once=config.limits.threads,
        )
        bundles = BundleService(profile, audit, metrics)
        health = HealthService(readiness.ready, metrics.sent_away.count)
        aside = aside_lane(metrics.sent_away.count)
        by_token = (service.by_token(verifier), bundles.by_token(verifier), *health.methods())
        self.tables = (MethodTable(by_token, self._lane(), aside),)
        if config.renewal is not None:
            by_certificate = (service.by_certificate(), bundles.by_certificate(issuer))
            self.tables += (MethodTable(by_certificate, self._lane(), with_certificate=True),)
        lanes = [each for table in self.tables for each in table.lanes]
        _watch(metrics, issuer, audit, lanes, readiness)
        metrics.gauges(
            "meshpki_ca_bundle_holders", "Agents that serve this bundle", "digest", lambda: bundles.counts(clock())
        )
        housekeeping = Housekeeping(
            {
                "audit": lambda: audit.flush(clock()),
                "clusters": lookout.look_here,
                "serving certificate": tls.renew,
                "calls sent away": lambda: metrics.sent_away.say(time.monotonic()),
            }
        )
        closing.callback(housekeeping.stop)
        closing.callback(lookout.stop)
        # Of its own: it waits for nothing, not even the disk.
        waiting = Housekeeping(
            {"late calls": LateCalls(each.room for each in lanes).look, "health": health.look}, period=LOOK_SECONDS
        )
        closing.callback(waiting.stop)
        reception = self._listen(tls, issuer)
        reception.start()
        http.show(_pages(reception, readiness, metrics, bundles.page(clock)))
        closing.callback(reception.stop)
        closing.callback(health.stop)
        closing.callback(readiness.stop)
        closing.callback(lookout.end)
        housekeeping.start()
        lookout.start()
        waiting.start()

    def _lane(self) -> Lane:
        return lane(self.config.limits.in_flight, self.metrics.sent_away.count, account)

    def _listen(self, tls: ServerTls, issuer: Issuer) -> Reception:
        config, reception = self.config, Reception(self.metrics.sent_away)
        most = affordable(config.limits.connections, allow_all(), listeners=len(self.tables))
        self.address = reception.listen(Door(str(config.listen), "listen", tls.credentials(), most), self.tables[0])
        if config.renewal is not None:
            credentials = tls.credentials(client_roots=issuer.roots_pem)
            door = Door(str(config.renewal.listen), "renewal.listen", credentials, most)
            self.renewal_address = reception.listen(door, self.tables[1])
        return reception


def serve(config: CaConfig) -> int:
    """Serve until SIGTERM or SIGINT, then drain; returns the exit status. For the main thread. Raises MeshpkiError."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    without_preemption()
    with CaServer(config):
        settle()
        while not stop.wait(HEED_SECONDS):
            """Nothing to do but to heed signals."""
    return 0


def open_issuer(signer: Signer, profile: Profile, now: float) -> Issuer:
    """Examine what signs before anything is served with it. Raises MeshpkiError."""
    issuer = Issuer.from_signer(signer)
    self_check(issuer, profile)
    if not issuer.not_before <= now < issuer.not_after:
        raise UnavailableError(
            "the issuing chain is not valid now",
            wanted="a chain within its lifetime",
            todo="see `meshpki ca show`, and compare this machine's clock",
        )
    return issuer


def _software_signer(config: CaConfig) -> Signer:
    files = config.issuer
    return SoftwareSigner.load(files.certificate, files.key, files.root)


def _pages_while_starting(metrics: CaMetrics) -> dict[str, Callable[[], Answer]]:
    """That it lives: reading a long audit log takes its time."""
    return {
        "/livez": health_page(lambda: ()),
        "/readyz": health_page(lambda: ("starting: keys, clusters and the audit log are being examined",)),
        "/metrics": metrics_page(metrics.registry),
    }


def _pages(
    reception: Reception, readiness: Readiness, metrics: CaMetrics, bundles: Callable[[], Answer]
) -> dict[str, Callable[[], Answer]]:
    return {
        "/livez": health_page(reception.failures),
        "/readyz": health_page(readiness.failures),
        "/metrics": metrics_page(metrics.registry),
        "/bundles": bundles,
    }


def _watch(metrics: CaMetrics, issuer: Issuer, audit: AuditLog, lanes: Sequence[Lane], readiness: Readiness) -> None:
    root = issuer.certificates[-1].not_valid_after_utc.timestamp()
    metrics.gauge("citadel_server_root_cert_expiry_timestamp", "Expiry of the root", lambda: root)
    metrics.gauge("citadel_server_cert_chain_expiry_timestamp", "Expiry of the chain", lambda: issuer.not_after)
    metrics.gauge(
        "meshpki_ca_in_flight",
        "Calls that were begun and have no answer yet",
        lambda: sum(each.places.count() for each in lanes),
    )
    metrics.gauge(
        "meshpki_ca_waiting",
        "Those of them whose request has not come yet",
        lambda: sum(each.room.count() for each in lanes),
    )
    metrics.gauge("meshpki_ca_audit_records", "Durable records of the audit log", lambda: audit.head.records)
    metrics.gauge("meshpki_ca_ready", "Whether certificates can be issued", readiness.ready)
