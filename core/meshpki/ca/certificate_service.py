"""CreateCertificate: token, request, identity, certificate, audit record, answer, in this order and never another."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.audit import AuditRecord, RecordKind, second_stamp, timestamp
from meshpki.ca.authorize import authorize
from meshpki.ca.csr import read_csr
from meshpki.ca.issue import issue
from meshpki.ca.methods import Call, CallRefusedError, Method
from meshpki.ca.metrics import Outcome
from meshpki.ca.prepare import prepare
from meshpki.ca.reasons import CsrRefusedError, IdentityReason, IdentityRefusedError, LifetimeRefusedError
from meshpki.ca.serials import draw
from meshpki.errors import MeshpkiError, UnavailableError
from meshpki.tokens.bearer import extract
from meshpki.tokens.reasons import TokenRefusedError
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshpki.wire.methods import CREATE_CERTIFICATE

if TYPE_CHECKING:
    from meshpki.ca.audit_log import AuditLog
    from meshpki.ca.issue import Issued
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.method_adapter import Received
    from meshpki.ca.metrics import CaMetrics
    from meshpki.ca.profile import Profile
    from meshpki.tokens.caller import Caller
    from meshpki.tokens.verify import TokenVerifier

_LOG = logging.getLogger(__name__)
_Status = grpc.StatusCode
AUTHORIZATION: Final = "authorization"
IMPERSONATED: Final = "ImpersonatedIdentity"
"""What ztunnel puts into the request's metadata (istio security/pkg/server/ca/server.go)."""


class CertificateService:
    """Turns verified callers and their keys into certificates. Safe for threads."""

    def __init__(
        self, *, verifier: TokenVerifier, issuer: Issuer, profile: Profile, audit: AuditLog, metrics: CaMetrics
    ) -> None:
        self._verifier = verifier
        self._issuer = issuer
        self._profile = profile
        self._audit = audit
        self._metrics = metrics

    def method(self) -> Method[Caller]:
        """Its part of the method table."""
        return Method(CREATE_CERTIFICATE, self.authenticate, self.create)

    def authenticate(self, call: Call) -> Caller:
        """The rule: one bearer token, verified. Raises CallRefusedError: UNAUTHENTICATED, or UNAVAILABLE."""
        try:
            token = extract([value for key, value in call.metadata if key == AUTHORIZATION])
            return self._verifier.verify(token, call.received_at)
        except TokenRefusedError as error:
            refusal = _refusal(_Status.UNAUTHENTICATED, error.reason, error)
            self._refused(call, Outcome.AUTHENTICATION, refusal, cluster=error.cluster)
        except UnavailableError as error:
            refusal = _unavailable("keys_unavailable", "the keys of the token's cluster cannot be had now", error)
            self._refused(call, Outcome.AUTHENTICATION, refusal)
        raise refusal

    def create(self, call: Call, caller: Caller, received: Received) -> bytes:
        """The handler. Raises CallRefusedError; what it returns is durable in the audit log."""
        try:
            issued = self._issue(call, caller, received)
            self._record(call, caller, issued)
        except CallRefusedError as refusal:
            self._refused(call, _outcome(refusal), refusal, caller=caller)
            raise
        self._metrics.issued(time.time() - call.received_at)
        return IstioCertificateResponse(cert_chain=issued.cert_chain).SerializeToString()

    def _issue(self, call: Call, caller: Caller, received: Received) -> Issued:
        request, identity = _read(received())
        try:
            key = read_csr(request.csr)
            spiffe_id = authorize(caller, self._profile, identity)
            prepared = prepare(
                self._issuer,
                self._profile,
                spiffe_id,
                key,
                requested_seconds=request.validity_duration,
                token_expires_at=caller.expires_at,
                now=call.received_at,
                serial=draw(),
            )
            return issue(prepared)
        except CsrRefusedError as error:
            raise _refusal(_Status.INVALID_ARGUMENT, error.reason, error) from error
        except IdentityRefusedError as error:
            malformed = error.reason is IdentityReason.MALFORMED
            status = _Status.INVALID_ARGUMENT if malformed else _Status.PERMISSION_DENIED
            raise _refusal(status, error.reason, error) from error
        except LifetimeRefusedError as error:
            raise _refusal(_Status.UNAUTHENTICATED, error.reason, error) from error
        except UnavailableError as error:
            raise _unavailable("signer_unavailable", "nothing can be signed now", error) from error

    def _record(self, call: Call, caller: Caller, issued: Issued) -> None:
        record = AuditRecord(
            kind=RecordKind.ISSUED,
            time=timestamp(call.received_at),
            request_id=call.id,
            cluster=caller.cluster,
            namespace=caller.service_account.namespace,
            service_account=caller.service_account.name,
            service_account_uid=caller.service_account_uid,
            pod=caller.pod.name if caller.pod else "",
            pod_uid=caller.pod.uid if caller.pod else "",
            node=caller.node.name if caller.node else "",
            jti=caller.token_id or "",
            serial=f"{issued.serial:x}",
            spiffe_id=issued.spiffe_id,
            not_after=second_stamp(issued.not_after),
            issuer_key_id=issued.issuer_key_id,
            peer=call.peer,
        )
        try:
            self._audit.append(record)
        except UnavailableError as error:
            raise _unavailable(
                "audit_unavailable", "the record of this certificate cannot be kept now", error
            ) from error

    def _refused(
        self,
        call: Call,
        outcome: Outcome,
        refusal: CallRefusedError,
        *,
        caller: Caller | None = None,
        cluster: str = "",
    ) -> None:
        self._metrics.failed(outcome, refusal.reason)
        record = AuditRecord(
            kind=RecordKind.REFUSED,
            time=timestamp(call.received_at),
            request_id=call.id,
            cluster=caller.cluster if caller else cluster,
            namespace=caller.service_account.namespace if caller else "",
            service_account=caller.service_account.name if caller else "",
            pod=caller.pod.name if caller and caller.pod else "",
            pod_uid=caller.pod.uid if caller and caller.pod else "",
            jti=caller.token_id or "" if caller else "",
            reason=refusal.reason,
            peer=call.peer,
        )
        self._audit.note(record, verified=caller is not None, now=call.received_at)
        if _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug("refused", extra={"call": call.id, "reason": refusal.reason, "peer": call.peer})


def _read(request: bytes) -> tuple[IstioCertificateRequest, str | None]:
    """The request and the identity that it names, if any. Other metadata is for other servers, and not looked at."""
    try:
        message = IstioCertificateRequest.FromString(request)
        if not message.HasField("metadata") or IMPERSONATED not in message.metadata.fields:
            return message, None
        return message, message.metadata.fields[IMPERSONATED].string_value
    except DecodeError as error:
        raise CallRefusedError(
            _Status.INVALID_ARGUMENT, "request_malformed", "the request is no IstioCertificateRequest"
        ) from error


def _refusal(status: grpc.StatusCode, reason: str, error: MeshpkiError) -> CallRefusedError:
    return CallRefusedError(status, str(reason), str(error))


def _unavailable(reason: str, sentence: str, error: UnavailableError) -> CallRefusedError:
    """The cause may name our files: it is for our log, not for whoever calls."""
    _LOG.debug("unavailable", extra={"reason": reason, "error": str(error)})
    return CallRefusedError(_Status.UNAVAILABLE, reason, f"{sentence}; try again")


def _outcome(refusal: CallRefusedError) -> Outcome:
    match refusal.status:
        case _Status.UNAUTHENTICATED:
            return Outcome.AUTHENTICATION
        case _Status.PERMISSION_DENIED:
            return Outcome.IDENTITY
        case _Status.INVALID_ARGUMENT:
            return Outcome.IDENTITY if refusal.reason == IdentityReason.MALFORMED else Outcome.CSR
        case _:
            return Outcome.SIGNING
