"""Which identity a verified caller gets, in our trust domain: its own, or that of a pod it may act for."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from meshpki.ca.impersonation import refused
from meshpki.ca.peer import Peer
from meshpki.ca.reasons import IdentityReason, IdentityRefusedError
from meshpki.errors import InvalidValueError
from meshpki.identity import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.profile import Profile
    from meshpki.identity import ServiceAccountRef, TrustDomain
    from meshpki.tokens.caller import Caller

    Grant: TypeAlias = Callable[[Caller, SpiffeId], SpiffeId]
    """Who asks, and the identity that it names: the identity that it gets. Raises IdentityRefusedError."""


def authorize(
    caller: Requester, profile: Profile, requested_identity: str | None, grant: Grant | None = None
) -> SpiffeId:
    """Build the SPIFFE ID from the verified namespace and service account and our own trust domain.

    `requested_identity` is what a request names (ztunnel's `ImpersonatedIdentity`); None or empty names none, and
    the caller's own is as good as none. Any other is for `grant` to decide, for a caller with a token: a certificate
    is renewed for itself alone. Raises IdentityRefusedError.
    """
    own = _own(profile.trust_domain, caller.service_account)
    if not requested_identity or requested_identity == str(own):
        return own
    try:
        requested = SpiffeId.parse(requested_identity)
    except InvalidValueError as error:
        raise IdentityRefusedError(
            IdentityReason.MALFORMED,
            f"a request for the identity {requested_identity[:120]!r}",
            wanted="no identity, or a SPIFFE ID",
        ) from error
    if grant is None or isinstance(caller, Peer):
        raise refused(own, requested)
    return grant(caller, requested)


# Few accounts, many certificates. Whoever comes here was verified, so strangers cannot fill the cache.
@lru_cache(maxsize=4096)
def _own(trust_domain: TrustDomain, account: ServiceAccountRef) -> SpiffeId:
    return SpiffeId.for_service_account(trust_domain, account)
