"""Who a verified token speaks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.value import value

if TYPE_CHECKING:
    from meshpki.identity import ServiceAccountRef


@value
class BoundObject:
    """A Kubernetes object that a token is bound to: its name, and the UID that tells it from a namesake."""

    name: str
    uid: str


@value
class Caller:
    """A workload whose token was verified for our audience, for this cluster. Times are epoch seconds."""

    cluster: str
    """The name we configured for the cluster, never a string out of the token."""
    issuer: str
    service_account: ServiceAccountRef
    service_account_uid: str
    pod: BoundObject | None
    node: BoundObject | None
    token_id: str | None
    """The token's `jti`; absent from tokens of Kubernetes below 1.29."""
    issued_at: int
    expires_at: int
