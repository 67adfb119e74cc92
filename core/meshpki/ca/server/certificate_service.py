"""CreateCertificate: credential, request, identity, certificate, audit record, answer, in this order and no other."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.authorize import authorize
from meshpki.ca.credential import CredentialKind
from meshpki.ca.lifetime import check_renewable
from meshpki.ca.peer import Peer
from meshpki.ca.reasons import IdentityReason, IdentityRefusedError, LifetimeReason, LifetimeRefusedError
from meshpki.ca.server.authentication import UNJUDGED, PeerRule, TokenRule
from meshpki.ca.server.issuance import Issuance, Order, lifetime_refusal
from meshpki.ca.server.methods import Call, CallRefusedError, Method
from meshpki.ca.server.metrics import Outcome
from meshpki.ca.server.refusals import Refusals, refusal, unavailable
from meshpki.ca.server.waiting_room import WITHOUT_REQUEST
from meshpki.errors import UnavailableError
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest
from meshpki.wire.methods import CREATE_CERTIFICATE

if TYPE_CHECKING:
    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile
    from meshpki.ca.server.methods import Received
    from meshpki.ca.server.metrics import CaMetrics
    from meshpki.ca.server.node_proxies import NodeProxies
    from meshpki.tokens.caller import Caller
    from meshpki.tokens.verify import TokenVerifier

_Status = grpc.StatusCode
IMPERSONATED: Final = "ImpersonatedIdentity"
"""What ztunnel puts into the request's metadata (istio security/pkg/server/ca/server.go)."""
PODS_UNAVAILABLE: Final = "pods_unavailable"


class CertificateService:
    """Turns verified callers and their keys into certificates. Safe for threads."""

    def __init__(
        self,
        *,
        issuer: Issuer,
        profile: Profile,
        audit: AuditLog,
        metrics: CaMetrics,
        proxies: NodeProxies,
        at_once: int,
    ) -> None:
        """`at_once`: see `Issuance`."""
        self._proxies = proxies
        self._issuer = issuer
        self._profile = profile
        self._issuance = Issuance(issuer, profile, audit, at_once=at_once)
        self._metrics = metrics
        self._refusals = {kind: Refusals(audit, partial(self._count, kind)) for kind in CredentialKind}

    def by_token(self, verifier: TokenVerifier) -> Method[Caller]:
        """The method as the listener for tokens has it."""
        kind = CredentialKind.TOKEN
        rule = TokenRule(verifier, self._refusals[kind])
        return Method(CREATE_CERTIFICATE, rule, self.create, count_busy=partial(self._count, kind))

    def by_certificate(self) -> Method[Peer]:
        """The method as the listener for renewal has it."""
        kind = CredentialKind.CERTIFICATE
        rule = PeerRule(self._issuer, self._profile, self._refusals[kind])
        return Method(CREATE_CERTIFICATE, rule, self.create, count_busy=partial(self._count, kind))

    def create(self, call: Call, who: Requester, received: Received) -> bytes:
        """The handler. Raises CallRefusedError; what it returns is durable in the audit log."""
        kind = CredentialKind.CERTIFICATE if isinstance(who, Peer) else CredentialKind.TOKEN
        try:
            answer = self._issuance.run(self._order(call, who, received()))
        except CallRefusedError as refused:
            self._refusals[kind].note(call, refused, who=who)
            raise
        self._metrics.issued(time.time() - call.received_at, kind)
        return answer

    def _order(self, call: Call, who: Requester, request: bytes) -> Order:
        message, identity = _read(request)
        try:
            return Order(
                call,
                who,
                message.csr,
                message.validity_duration,
                authorize(who, self._profile, identity, self._proxies.grant),
                self._attested_at(call, who),
            )
        except IdentityRefusedError as error:
            malformed = error.reason is IdentityReason.MALFORMED
            status = _Status.INVALID_ARGUMENT if malformed else _Status.PERMISSION_DENIED
            raise refusal(status, error.reason, error) from error
        except LifetimeRefusedError as error:
            raise lifetime_refusal(error) from error
        except UnavailableError as error:
            raise unavailable(PODS_UNAVAILABLE, "the cluster cannot be asked about its pods now", error) from error

    def _attested_at(self, call: Call, who: Requester) -> int | None:
        """When a token last proved this identity: just now, or when the certificate that is renewed says."""
        if isinstance(who, Peer):
            return check_renewable(self._profile, attested_at=who.attested_at, held_until=who.not_after)
        return None if self._profile.max_without_token_seconds is None else int(call.received_at)

    def _count(self, kind: CredentialKind, refused: CallRefusedError) -> None:
        self._metrics.failed(_outcome(refused), refused.reason, kind)


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


def _outcome(refused: CallRefusedError) -> Outcome:
    match refused.status:
        case _Status.UNAUTHENTICATED:
            return Outcome.AUTHENTICATION
        case _Status.PERMISSION_DENIED:
            return Outcome.AUTHENTICATION if refused.reason == LifetimeReason.TOKEN_NEEDED else Outcome.IDENTITY
        case _Status.INVALID_ARGUMENT:
            return Outcome.IDENTITY if refused.reason == IdentityReason.MALFORMED else Outcome.CSR
        case _ if refused.reason in WITHOUT_REQUEST:
            return Outcome.CSR
        case _:
            if refused.reason == PODS_UNAVAILABLE:
                return Outcome.IDENTITY
            return Outcome.AUTHENTICATION if refused.reason in UNJUDGED else Outcome.SIGNING
