"""From verified callers and their requests to certificates on record: step by step, each step for many calls in a row.

What may wait for somebody else, a token's keys or another server's word on an identity, was done before, in a thread
that may wait. An order that fails keeps its error and leaves the others alone.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from meshpki.ca.audit.entries import issued_record
from meshpki.ca.csr import read_csr
from meshpki.ca.issue import issue
from meshpki.ca.peer import Peer
from meshpki.ca.prepare import prepare
from meshpki.ca.reasons import CsrRefusedError, LifetimeReason, LifetimeRefusedError
from meshpki.ca.serials import draw
from meshpki.ca.server.refusals import refusal, unavailable
from meshpki.ca.signer import SoftwareSigner
from meshpki.errors import UnavailableError, WouldWaitError
from meshpki.wire.istio_ca_pb2 import IstioCertificateResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.audit.log import AuditLog
    from meshpki.ca.audit.record import AuditRecord
    from meshpki.ca.csr import CsrKey
    from meshpki.ca.issue import Issued
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.prepare import Prepared
    from meshpki.ca.profile import Profile
    from meshpki.ca.server.calls.methods import Call, CallRefusedError
    from meshpki.identity import SpiffeId

_Status = grpc.StatusCode


@dataclass(slots=True, eq=False, repr=False)
class Order:
    """One call on its way to a certificate, and how far it came. No repr: the call holds a token."""

    call: Call
    who: Requester
    csr: str
    requested_seconds: int
    spiffe_id: SpiffeId
    attested_at: int | None
    """When a token last proved the identity, where certificates are renewed by themselves."""
    key: CsrKey | None = None
    prepared: Prepared | None = None
    issued: Issued | None = None
    record: AuditRecord | None = None
    sealed: bytes = b""
    """The answer, not to leave yet."""
    answer: bytes = b""
    """Empty until the record is durable."""
    error: BaseException | None = None


class Issuance:
    """Issues for all who ask at the time, in two steps: `begin` each, then `complete` those of a moment.

    A key in this process signs in microseconds, so everything is done for all of them together. Any other signer may
    take as long as it likes: each order is then signed in a thread of its own, and they share the sync of the audit
    log alone.
    """

    def __init__(self, issuer: Issuer, profile: Profile, audit: AuditLog, *, at_once: int = 16) -> None:
        """`at_once`: so many calls ask such a signer at a time, the others wait for their turn."""
        self._issuer = issuer
        self._profile = profile
        self._audit = audit
        self._together = isinstance(issuer.signer, SoftwareSigner)
        self._turns = threading.Semaphore(at_once)

    def begin(self, order: Order, *, at_once: bool) -> None:
        """Do what may take its time. Safe for threads. Raises WouldWaitError when there is such, and it may not."""
        if self._together:
            return
        if at_once:
            raise WouldWaitError
        with self._turns:
            self._certify([order])

    def complete(self, orders: Sequence[Order]) -> None:
        """Make of each order an answer, its record durable, or an error: CallRefusedError, or what broke it."""
        if self._together:
            self._certify(orders)
        self._record(orders)

    def _certify(self, orders: Sequence[Order]) -> None:
        for step in (self._read, self._prepare, self._sign, _write):
            _each(step, orders)

    def _read(self, order: Order) -> None:
        try:
            order.key = read_csr(order.csr)
        except CsrRefusedError as error:
            raise refusal(_Status.INVALID_ARGUMENT, error.reason, error) from error

    def _prepare(self, order: Order) -> None:
        assert order.key is not None
        try:
            order.prepared = prepare(
                self._issuer,
                self._profile,
                order.spiffe_id,
                order.key,
                requested_seconds=order.requested_seconds,
                token_expires_at=None if isinstance(order.who, Peer) else order.who.expires_at,
                now=order.call.received_at,
                serial=draw(),
                attested_at=order.attested_at,
            )
        except LifetimeRefusedError as error:
            raise lifetime_refusal(error) from error
        except UnavailableError as error:
            raise _not_now(error) from error

    def _sign(self, order: Order) -> None:
        assert order.prepared is not None
        try:
            order.issued = issue(order.prepared)
        except UnavailableError as error:
            raise _not_now(error) from error

    def _record(self, orders: Sequence[Order]) -> None:
        """One sync for all; no answer before it."""
        ready = [(order, order.record) for order in orders if order.error is None and order.record is not None]
        if not ready:
            return
        try:
            self._audit.append(*(record for _, record in ready))
        except UnavailableError as error:
            for order, _ in ready:
                order.error = unavailable(
                    "audit_unavailable", "the record of this certificate cannot be kept now", error
                )
        else:
            for order, _ in ready:
                order.answer = order.sealed


def _write(order: Order) -> None:
    assert order.issued is not None
    order.record = issued_record(order.call, order.who, order.issued)
    order.sealed = IstioCertificateResponse(cert_chain=order.issued.cert_chain).SerializeToString()


def lifetime_refusal(error: LifetimeRefusedError) -> CallRefusedError:
    """The answer to a caller who gets no certificate for the time it may have."""
    needed = error.reason is LifetimeReason.TOKEN_NEEDED
    return refusal(_Status.PERMISSION_DENIED if needed else _Status.UNAUTHENTICATED, error.reason, error)


def _not_now(error: UnavailableError) -> CallRefusedError:
    return unavailable("signer_unavailable", "nothing can be signed now", error)


def _each(step: Callable[[Order], None], orders: Sequence[Order]) -> None:
    for order in orders:
        if order.error is None:
            try:
                step(order)
            except BaseException as error:  # noqa: BLE001  # raised where the order came from
                order.error = error
