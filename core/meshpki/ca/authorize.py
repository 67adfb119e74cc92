"""Which identity a verified caller gets: its own, in our trust domain, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.ca.reasons import IdentityReason, IdentityRefusedError
from meshpki.errors import InvalidValueError
from meshpki.identity import SpiffeId

if TYPE_CHECKING:
    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.profile import Profile


def authorize(caller: Requester, profile: Profile, requested_identity: str | None) -> SpiffeId:
    """Build the SPIFFE ID from the verified namespace and service account and our own trust domain.

    `requested_identity` is what a request names (ztunnel's `ImpersonatedIdentity`); None or empty names none, and
    the caller's own is as good as none. Raises IdentityRefusedError for any other: acting for the pods of one's node
    (facts of ztunnel: trusted account, pod on the caller's node) is a capability of its own and not granted here.
    """
    own = SpiffeId.for_service_account(profile.trust_domain, caller.service_account)
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
    raise IdentityRefusedError(
        IdentityReason.IMPERSONATION,
        f"{own} asked for the identity {requested}",
        wanted="its own identity, or none named",
        todo="let the workload ask with its own token; acting for other pods of a node is not granted here",
    )
