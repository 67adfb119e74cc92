"""Every reason to refuse a token: one enumeration that logs, metrics, audit records and error texts share."""

from __future__ import annotations

from enum import StrEnum

from meshpki.errors import RefusedError


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


class TokenRefusedError(RefusedError):
    """A token was refused for one reason. The text never holds any part of the token but its claims' names."""

    def __init__(self, reason: TokenReason, seen: str, *, wanted: str = "", todo: str = "", cluster: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason
        self.cluster = cluster
        """The configured cluster whose issuer the token named, as far as that was settled; else empty."""
