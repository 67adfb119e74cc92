"""What the audit log says of a call for a certificate: who asked, by which credential, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from meshpki.ca.audit.record import AuditRecord, RecordKind, second_stamp, timestamp
from meshpki.ca.peer import Peer

if TYPE_CHECKING:
    from meshpki.ca.issue import Issued
    from meshpki.ca.server.calls.methods import Call
    from meshpki.tokens.caller import Caller

    Requester: TypeAlias = Caller | Peer
    """Whoever was proven to call: by a token, or by a certificate of ours."""


def issued_record(call: Call, who: Requester, issued: Issued) -> AuditRecord:
    """A certificate that is about to leave."""
    attested_at = "" if issued.attested_at is None else second_stamp(issued.attested_at)
    if isinstance(who, Peer):
        return AuditRecord(
            kind=RecordKind.ISSUED,
            time=timestamp(call.received_at),
            request_id=call.id,
            namespace=who.service_account.namespace,
            service_account=who.service_account.name,
            serial=f"{issued.serial:x}",
            spiffe_id=issued.spiffe_id,
            not_after=second_stamp(issued.not_after),
            issuer_key_id=issued.issuer_key_id,
            peer=call.peer,
            attested_at=attested_at,
            renewed_from=f"{who.serial:x}",
        )
    return AuditRecord(
        kind=RecordKind.ISSUED,
        time=timestamp(call.received_at),
        request_id=call.id,
        cluster=who.cluster,
        namespace=who.service_account.namespace,
        service_account=who.service_account.name,
        service_account_uid=who.service_account_uid,
        pod=who.pod.name if who.pod else "",
        pod_uid=who.pod.uid if who.pod else "",
        node=who.node.name if who.node else "",
        jti=who.token_id or "",
        serial=f"{issued.serial:x}",
        spiffe_id=issued.spiffe_id,
        not_after=second_stamp(issued.not_after),
        issuer_key_id=issued.issuer_key_id,
        peer=call.peer,
        attested_at=attested_at,
    )


def refused_record(
    call: Call, reason: str, *, who: Requester | None = None, cluster: str = "", detail: str = ""
) -> AuditRecord:
    """A call that gets nothing. `cluster` as far as it is known of a caller who is not; `detail` for another method."""
    if who is None:
        return AuditRecord(
            kind=RecordKind.REFUSED,
            time=timestamp(call.received_at),
            request_id=call.id,
            cluster=cluster,
            reason=reason,
            peer=call.peer,
            detail=detail,
        )
    if isinstance(who, Peer):
        return AuditRecord(
            kind=RecordKind.REFUSED,
            time=timestamp(call.received_at),
            request_id=call.id,
            namespace=who.service_account.namespace,
            service_account=who.service_account.name,
            reason=reason,
            peer=call.peer,
            detail=detail,
            renewed_from=f"{who.serial:x}",
        )
    return AuditRecord(
        kind=RecordKind.REFUSED,
        time=timestamp(call.received_at),
        request_id=call.id,
        cluster=who.cluster,
        namespace=who.service_account.namespace,
        service_account=who.service_account.name,
        pod=who.pod.name if who.pod else "",
        pod_uid=who.pod.uid if who.pod else "",
        jti=who.token_id or "",
        reason=reason,
        peer=call.peer,
        detail=detail,
    )
