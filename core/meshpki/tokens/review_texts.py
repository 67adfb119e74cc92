"""What API servers of every age write when they do not take a token, and what helps then. Pure.

Seen on 1.13.0, 1.30.14 and 1.37.2; matched loosely, for these texts are no API. What none of them fits is
`token_not_authenticated`. Nothing of the text goes into what we say: it names UIDs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.tokens.reasons import TokenReason

if TYPE_CHECKING:
    from meshpki.tokens.caller import Caller

_CLIP: Final = 4096


@dataclass(frozen=True, slots=True)
class Explanation:
    """A refusal by the API server in our words."""

    reason: TokenReason
    seen: str
    wanted: str
    todo: str


_RESTART: Final = "restart the pod"
_GONE: Final = {
    TokenReason.ACCOUNT_GONE: Explanation(
        TokenReason.ACCOUNT_GONE,
        "the token's service account is gone",
        "a token of a service account that exists",
        "make the service account again and restart the pod, or delete the pod",
    ),
    TokenReason.ACCOUNT_RECREATED: Explanation(
        TokenReason.ACCOUNT_RECREATED,
        "the token's service account was deleted and made anew: the same name, another UID",
        "a token of the service account that is there now",
        f"{_RESTART}: what runs in it holds a token of the old account",
    ),
    TokenReason.POD_GONE: Explanation(
        TokenReason.POD_GONE,
        "the pod that the token is bound to is gone, or there is another of its name",
        "a token of the pod that is there now",
        f"{_RESTART}; if it is long gone, see who still uses its token",
    ),
    TokenReason.NODE_GONE: Explanation(
        TokenReason.NODE_GONE,
        "the node that the token is bound to is gone, or there is another of its name",
        "a token of a node that is in the cluster",
        "join the node again, and restart what runs on it",
    ),
    TokenReason.EXPIRED: Explanation(
        TokenReason.EXPIRED,
        "the API server's clock says that the token has expired",
        "a token that is valid by both clocks",
        "compare the clocks of the CA and of the API server; read the token file again before each call",
    ),
    TokenReason.NOT_YET_VALID: Explanation(
        TokenReason.NOT_YET_VALID,
        "the API server's clock says that the token is not valid yet",
        "a token that is valid by both clocks",
        "compare the clocks of the CA and of the API server",
    ),
    TokenReason.BAD_SIGNATURE: Explanation(
        TokenReason.BAD_SIGNATURE,
        "the API server has no key that the token was signed by",
        "a signature by a key of the cluster",
        "if the API server issued it: is its signing key's public half in every --service-account-key-file?",
    ),
    TokenReason.NOT_AUTHENTICATED: Explanation(
        TokenReason.NOT_AUTHENTICATED,
        "the cluster's API server does not take the token",
        "a token that it issued, for our audience, bound to something that still exists",
        "check that `issuer` is one of its --service-account-issuer; its own log has the cause",
    ),
}

_TEXTS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), reason)
    for pattern, reason in (
        (r"service ?account uid\b.*does not match", TokenReason.ACCOUNT_RECREATED),
        (r"pod uid\b.*does not match", TokenReason.POD_GONE),
        (r"node uid\b.*does not match", TokenReason.NODE_GONE),
        (r"serviceaccounts? .*not found", TokenReason.ACCOUNT_GONE),
        (r"pods? \".*not found", TokenReason.POD_GONE),
        (r"nodes? \".*not found", TokenReason.NODE_GONE),
        (r"token has expired", TokenReason.EXPIRED),
        (r"not valid yet|used before issued", TokenReason.NOT_YET_VALID),
        (r"error in cryptographic primitive|no keys found|signature is invalid", TokenReason.BAD_SIGNATURE),
    )
)
_INVALIDATED: Final = re.compile(r"token has been invalidated", re.IGNORECASE)


def explain(error: str, caller: Caller) -> Explanation:
    """Find the reason in `status.error`; `caller` is what the token's own claims say.

    "Invalidated" is said of a token whose bound object is gone, whatever it was: the claims tell which. (It is also
    said while a service account is being deleted, whose pods are on their way too.)
    """
    text = error[:_CLIP]
    for pattern, reason in _TEXTS:
        if pattern.search(text):
            return _GONE[reason]
    if _INVALIDATED.search(text) and (caller.pod or caller.node):
        return _GONE[TokenReason.POD_GONE if caller.pod else TokenReason.NODE_GONE]
    return _GONE[TokenReason.NOT_AUTHENTICATED]
