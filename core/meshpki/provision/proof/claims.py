"""Whether a token says what it was asked for: for whom, for which account and pod, for how long. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.errors import RefusedError
from meshpki.provision.ca_questions import LIFETIME_SECONDS
from meshpki.provision.cluster.evidence import shown
from meshpki.tokens.claims import check_legacy, read_issuer
from meshpki.tokens.parse import parse
from meshpki.tokens.policy import ClusterPolicy, check_claims

if TYPE_CHECKING:
    from meshpki.identity import ServiceAccountRef
    from meshpki.tokens.caller import BoundObject


def examine(
    token: str, *, audience: str, account: ServiceAccountRef, account_uid: str, pod: BoundObject, now: float
) -> str:
    """Examine the claims as the CA does, and then those that it cannot know; a sentence about them.

    `now` is epoch seconds. Raises RefusedError, TokenRefusedError.
    """
    parsed = parse(token.encode("ascii", "replace"))
    check_legacy(parsed.claims)
    issuer = read_issuer(parsed.claims)
    caller = check_claims(parsed, ClusterPolicy("probed", issuer, audiences=(audience,)), now)
    if parsed.claims["aud"] not in ([audience], audience):
        raise RefusedError("the token is for other audiences too", wanted=f"for {audience} alone")
    if (caller.service_account, caller.service_account_uid) != (account, account_uid):
        raise RefusedError(f"the token is for {caller.service_account}", wanted=f"{account} of UID {account_uid}")
    if caller.pod != pod:
        named = f"pod {caller.pod.name} of UID {caller.pod.uid}" if caller.pod else "no pod"
        raise RefusedError(f"the token is bound to {named}", wanted=f"pod {pod.name} of UID {pod.uid}")
    lifetime = caller.expires_at - caller.issued_at
    if not 0 < lifetime <= LIFETIME_SECONDS:
        raise RefusedError(f"the token lives {lifetime} s", wanted=f"the {LIFETIME_SECONDS} s that were asked for")
    traceable = "" if caller.token_id else ", no jti"
    return f"for {audience}, {lifetime} s, {parsed.header.algorithm}{traceable}, issuer {shown(issuer)}"
