"""Every reason to refuse a token: one enumeration that logs, metrics, audit records and error texts share."""

from __future__ import annotations

from enum import StrEnum

from meshpki.errors import RefusedError, UnavailableError


class TokenReason(StrEnum):
    """Why a token was refused. The value is what metrics and audit records show; values are never re-used."""

    MISSING = "token_missing"
    SEVERAL = "token_several"
    """More than one authorization header."""
    TOO_LARGE = "token_too_large"
    MALFORMED = "token_malformed"
    """Not three canonical base64url parts of JSON objects."""
    DUPLICATE_MEMBER = "token_duplicate_member"
    """A JSON object names one member twice: two readers could see two identities."""
    HEADER_NOT_ALLOWED = "token_header_not_allowed"
    """A header that brings a key, a key's address, or an extension we do not know (jwk, jku, x5u, x5c, crit)."""
    ALGORITHM_NOT_ALLOWED = "token_algorithm_not_allowed"
    UNKNOWN_ISSUER = "token_unknown_issuer"
    UNKNOWN_KEY = "token_unknown_key"
    BAD_SIGNATURE = "token_bad_signature"
    LEGACY = "token_legacy"
    """A secret-based service-account token: no audience, no expiry, bound to nothing."""
    CLAIM_MISSING = "token_claim_missing"
    CLAIM_INVALID = "token_claim_invalid"
    NO_AUDIENCE = "token_no_audience"
    WRONG_AUDIENCE = "token_wrong_audience"
    EXPIRED = "token_expired"
    NOT_YET_VALID = "token_not_yet_valid"
    LIFETIME_TOO_LONG = "token_lifetime_too_long"
    NOT_BOUND = "token_not_bound"
    """The policy wants a token bound to a pod, and this one is not."""
    BAD_SUBJECT = "token_bad_subject"
    SEVERAL_CLUSTERS = "token_several_clusters"
    """Its key is in the JWKS of two clusters that share an issuer: it could be of either."""
    NOT_AUTHENTICATED = "token_not_authenticated"
    """The cluster's API server does not take it, and says nothing that we know."""
    POD_GONE = "token_pod_gone"
    """The pod that it is bound to is gone, or there is another of that name."""
    NODE_GONE = "token_node_gone"
    """The node that it is bound to is gone, or there is another of that name."""
    ACCOUNT_GONE = "token_account_gone"
    ACCOUNT_RECREATED = "token_account_recreated"
    """The service account was deleted and made anew: the same name, another UID."""
    AUDIENCE_NOT_CONFIRMED = "token_audience_not_confirmed"
    """The API server took it without saying that it is meant for our audience."""
    REVIEW_MISMATCH = "token_review_mismatch"
    """The API server says that the token is somebody else's than its own claims say."""


class UnjudgedReason(StrEnum):
    """Why a token could be neither believed nor refused. Values are never re-used."""

    KEYS = "keys_unavailable"
    """The cluster's keys cannot be had."""
    KEY_NOT_SEEN_YET = "key_not_seen_yet"
    """The token is younger than our last look at the keys: its key may be, too."""
    REVIEW = "review_unavailable"
    """The cluster's API server is away, slow, throttling, or does not let us ask."""
    REVIEW_BUSY = "review_busy"
    """As many reviews as we allow are under way."""


class TokenRefusedError(RefusedError):
    """A token was refused for one reason. The text never holds any part of the token but its claims' names."""

    def __init__(self, reason: TokenReason, seen: str, *, wanted: str = "", todo: str = "", cluster: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason
        self.cluster = cluster
        """The configured cluster whose issuer the token named, as far as that was settled; else empty."""


class TokenUnjudgedError(UnavailableError):
    """Nothing was decided about a token: the same one may be believed later. The text may name our files."""

    def __init__(self, reason: UnjudgedReason, seen: str, *, todo: str = "", cluster: str = "") -> None:
        super().__init__(seen, todo=todo)
        self.reason = reason
        self.cluster = cluster
