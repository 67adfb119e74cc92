"""The rules of the method table that want a credential: a token on one listener, a certificate on the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import grpc

from meshpki.ca.peer import Peer, check_peer
from meshpki.ca.reasons import PeerReason, PeerRefusedError
from meshpki.ca.server.refusals import Refusals, refusal, unavailable
from meshpki.errors import UnavailableError
from meshpki.tokens.bearer import extract
from meshpki.tokens.reasons import TokenRefusedError, TokenUnjudgedError, UnjudgedReason

if TYPE_CHECKING:
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.profile import Profile
    from meshpki.ca.server.calls.methods import Call
    from meshpki.tokens.caller import Caller
    from meshpki.tokens.verify import TokenVerifier

AUTHORIZATION: Final = "authorization"
CLUSTER_ID: Final = "clusterid"
UNJUDGED: Final = frozenset(UnjudgedReason)
_SENTENCES: Final = {
    UnjudgedReason.KEYS: "the keys of the token's cluster cannot be had now",
    UnjudgedReason.KEY_NOT_SEEN_YET: "the token's key is not known yet",
    UnjudgedReason.REVIEW: "the token's cluster cannot be asked about it now",
    UnjudgedReason.REVIEW_BUSY: "too many tokens are being reviewed at once",
}
_UNAUTHENTICATED: Final = grpc.StatusCode.UNAUTHENTICATED


class TokenRule:
    """Whoever shows one bearer token of a cluster that we believe."""

    def __init__(self, verifier: TokenVerifier, refusals: Refusals) -> None:
        self._verifier = verifier
        self._refusals = refusals

    def __call__(self, call: Call, *, at_once: bool) -> Caller:
        """Verify the token. Raises CallRefusedError: UNAUTHENTICATED, or UNAVAILABLE; and WouldWaitError."""
        try:
            token = extract([value for key, value in call.metadata if key == AUTHORIZATION])
            hint = cluster_hint(call) if self._verifier.takes_hints else ""
            return self._verifier.verify(token, call.received_at, hint, at_once=at_once)
        except TokenRefusedError as error:
            refused = refusal(_UNAUTHENTICATED, error.reason, error)
            self._refusals.note(call, refused, cluster=error.cluster)
        except UnavailableError as error:
            reason, cluster = UnjudgedReason.KEYS, ""
            if isinstance(error, TokenUnjudgedError):
                reason, cluster = error.reason, error.cluster
            refused = unavailable(reason, _SENTENCES[reason], error)
            self._refusals.note(call, refused, cluster=cluster)
        raise refused


def cluster_hint(call: Call) -> str:
    """The cluster that the caller says it is in: one value of `clusterid`, else nothing. It is not a credential."""
    values = [value for key, value in call.metadata if key == CLUSTER_ID]
    return values[0] if len(values) == 1 and isinstance(values[0], str) else ""


class PeerRule:
    """Whoever shows a certificate that we issued to a workload, still valid by our clock, and no token beside it."""

    def __init__(self, issuer: Issuer, profile: Profile, refusals: Refusals) -> None:
        self._issuing = issuer.certificates[0]
        self._trust_domain = profile.trust_domain
        self._refusals = refusals

    def __call__(self, call: Call, *, at_once: bool) -> Peer:  # noqa: ARG002  # nobody is asked
        """Examine the certificate anew for each call. Raises CallRefusedError: UNAUTHENTICATED."""
        try:
            _check_alone(call)
            return check_peer(call.certificate, self._issuing, self._trust_domain, call.received_at)
        except PeerRefusedError as error:
            refused = refusal(_UNAUTHENTICATED, error.reason, error)
            self._refusals.note(call, refused)
        raise refused


def _check_alone(call: Call) -> None:
    if any(key == AUTHORIZATION for key, _ in call.metadata):
        raise PeerRefusedError(
            PeerReason.WITH_TOKEN,
            "a token beside a client certificate",
            wanted="one credential",
            todo="ask with the token where tokens are taken",
        )
