"""CreateCertificate: credential, request, identity, certificate, audit record, answer, in this order and no other."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from google.protobuf.message import DecodeError

from meshpki.ca.authorize import authorize
from meshpki.ca.credential import CredentialKind
from meshpki.ca.lifetime import check_renewable
from meshpki.ca.peer import Peer
from meshpki.ca.reasons import IdentityReason, IdentityRefusedError, LifetimeReason, LifetimeRefusedError
from meshpki.ca.server.authentication import UNJUDGED, PeerRule, TokenRule
from meshpki.ca.server.calls.methods import BatchMethod, Call, CallRefusedError
from meshpki.ca.server.calls.waiting_room import WITHOUT_REQUEST
from meshpki.ca.server.issuance import Issuance, Order, lifetime_refusal
from meshpki.ca.server.metrics import Outcome
from meshpki.ca.server.refusals import Refusals, refusal, unavailable
from meshpki.errors import UnavailableError, WouldWaitError
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest
from meshpki.wire.methods import CREATE_CERTIFICATE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile
    from meshpki.ca.server.calls.methods import Rule
    from meshpki.ca.server.metrics import CaMetrics
    from meshpki.ca.server.node_proxies import NodeProxies
    from meshpki.identity import SpiffeId
    from meshpki.tokens.caller import Caller
    from meshpki.tokens.verify import TokenVerifier

_Status = grpc.StatusCode
_Who = TypeVar("_Who", "Caller", Peer)
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

    def by_token(self, verifier: TokenVerifier) -> BatchMethod[Caller]:
        """The method as the listener for tokens has it."""
        return self._method(CredentialKind.TOKEN, TokenRule(verifier, self._refusals[CredentialKind.TOKEN]))

    def by_certificate(self) -> BatchMethod[Peer]:
        """The method as the listener for renewal has it."""
        kind = CredentialKind.CERTIFICATE
        return self._method(kind, PeerRule(self._issuer, self._profile, self._refusals[kind]))

    def _method(self, kind: CredentialKind, rule: Rule[_Who]) -> BatchMethod[_Who]:
        return BatchMethod(
            CREATE_CERTIFICATE,
            rule,
            self.order,
            self.issue,
            left=self._refused,
            count_busy=partial(self._count, kind),
        )

    def order(self, call: Call, who: Requester, request: bytes, at_once: bool) -> Order:
        """Decide which identity it gets. Raises CallRefusedError; and WouldWaitError when that takes waiting.

        With a signer that may take its time everything up to the signature is done here, so that nobody else waits.
        """
        try:
            order = self._order(call, who, request, at_once)
            self._issuance.begin(order, at_once=at_once)
        except CallRefusedError as refused:
            self._refused(call, who, refused)
            raise
        return order

    def issue(self, orders: Sequence[Order]) -> None:
        """Make the certificates; an answer is there only when its record is durable in the audit log."""
        self._issuance.complete(orders)
        now = time.time()
        for order in orders:
            if order.error is None:
                self._metrics.issued(now - order.call.received_at, _kind(order.who))
            elif isinstance(order.error, CallRefusedError):
                self._refused(order.call, order.who, order.error)

    def _refused(self, call: Call, who: Requester, refused: CallRefusedError) -> None:
        self._refusals[_kind(who)].note(call, refused, who=who)

    def _order(self, call: Call, who: Requester, request: bytes, at_once: bool) -> Order:
        message, identity = _read(request)
        try:
            return Order(
                call,
                who,
                message.csr,
                message.validity_duration,
                authorize(who, self._profile, identity, _would_wait if at_once else self._proxies.grant),
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


def _would_wait(caller: Caller, requested: SpiffeId) -> SpiffeId:  # noqa: ARG001  # a grant's form
    """In place of who asks a cluster."""
    raise WouldWaitError


def _kind(who: Requester) -> CredentialKind:
    return CredentialKind.CERTIFICATE if isinstance(who, Peer) else CredentialKind.TOKEN


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
