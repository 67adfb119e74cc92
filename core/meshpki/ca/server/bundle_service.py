"""TrustBundles/Report: an agent says which roots it serves; shown in metrics and as JSON at /bundles."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.audit.record import second_stamp
from meshpki.ca.peer import Peer
from meshpki.ca.server.authentication import PeerRule, TokenRule
from meshpki.ca.server.bundle_reports import BundleReport, BundleReports, Reporter, ReportsFullError
from meshpki.ca.server.calls.methods import Call, CallRefusedError, Method
from meshpki.ca.server.refusals import Refusals
from meshpki.runtime.http import Answer
from meshpki.wire.methods import REPORT_BUNDLE
from meshpki.wire.trust_bundles_pb2 import ReportRequest, ReportResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile
    from meshpki.ca.server.calls.methods import Rule
    from meshpki.ca.server.metrics import CaMetrics
    from meshpki.tokens.caller import Caller
    from meshpki.tokens.verify import TokenVerifier

_Who = TypeVar("_Who", "Caller", Peer)
MOST_ROOTS: Final = 1_000
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_ANSWER: Final = ReportResponse().SerializeToString()


class BundleService:
    """Takes reports from whoever could have a certificate, and nothing but a report from them. Safe for threads."""

    def __init__(self, profile: Profile, audit: AuditLog, metrics: CaMetrics) -> None:
        self._profile = profile
        self._reports = BundleReports()
        self._metrics = metrics
        self._refusals = Refusals(audit, self._count, detail="report")

    def by_token(self, verifier: TokenVerifier) -> Method[Caller]:
        """The method as the listener for tokens has it: by the very rule of CreateCertificate."""
        return self._method(TokenRule(verifier, self._refusals))

    def by_certificate(self, issuer: Issuer) -> Method[Peer]:
        """The method as the listener for renewal has it."""
        return self._method(PeerRule(issuer, self._profile, self._refusals))

    def _method(self, rule: Rule[_Who]) -> Method[_Who]:
        return Method(REPORT_BUNDLE, rule, self.report, left=self._refused, count_busy=self._count)

    def report(self, call: Call, who: Requester, request: bytes) -> bytes:
        """The handler. Raises CallRefusedError: INVALID_ARGUMENT, or RESOURCE_EXHAUSTED."""
        try:
            message = _read(request)
            reporter, expires_at = self._reporter(who, call.received_at)
            report = BundleReport(message.digest, message.sequence, message.roots, call.received_at, expires_at)
            self._put(reporter, report)
        except CallRefusedError as refused:
            self._refused(call, who, refused)
            raise
        return _ANSWER

    def _refused(self, call: Call, who: Requester, refused: CallRefusedError) -> None:
        self._refusals.note(call, refused, who=who)

    def _count(self, refused: CallRefusedError) -> None:
        self._metrics.report_failed(refused.reason)

    def counts(self, now: float) -> dict[str, int]:
        """How many agents serve which bundle, by digest."""
        return self._reports.counts(now)

    def _reporter(self, who: Requester, now: float) -> tuple[Reporter, float]:
        """Who it is, and until when its word counts: an agent reports with each renewal, so before that long."""
        ends = now + self._profile.max_ttl_seconds
        if isinstance(who, Peer):
            return Reporter("", who.service_account, f"serial:{who.serial:x}"), min(ends, float(who.not_after))
        instance = f"pod:{who.pod.uid}" if who.pod else f"token:{(who.token_id or '')[:64]}"
        return Reporter(who.cluster, who.service_account, instance), ends

    def _put(self, reporter: Reporter, report: BundleReport) -> None:
        try:
            self._reports.put(reporter, report)
        except ReportsFullError:
            raise CallRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "reports_full", "no room for another agent's report"
            ) from None

    def page(self, clock: Callable[[], float]) -> Callable[[], Answer]:
        """The page of /bundles, as of the clock's time (epoch seconds)."""

        def answer() -> Answer:
            reports = [
                {
                    "cluster": reporter.cluster,
                    "namespace": reporter.service_account.namespace,
                    "service_account": reporter.service_account.name,
                    "instance": reporter.instance,
                    "digest": report.digest,
                    "sequence": report.sequence,
                    "roots": report.roots,
                    "at": second_stamp(int(report.at)),
                }
                for reporter, report in self._reports.listing(clock())
            ]
            return Answer(HTTPStatus.OK, json.dumps({"reports": reports}).encode() + b"\n", "application/json")

        return answer


def _read(request: bytes) -> ReportRequest:
    try:
        message = ReportRequest.FromString(request)
    except DecodeError as error:
        raise _invalid("request_malformed", "the request is no ReportRequest") from error
    if not _DIGEST.fullmatch(message.digest):
        raise _invalid("report_digest_malformed", "wanted: a SHA-256 as 64 lower-case hexadecimal digits")
    if not 1 <= message.roots <= MOST_ROOTS:
        raise _invalid("report_roots_out_of_range", f"wanted: 1 to {MOST_ROOTS} roots")
    return message


def _invalid(reason: str, sentence: str) -> CallRefusedError:
    return CallRefusedError(grpc.StatusCode.INVALID_ARGUMENT, reason, sentence)
