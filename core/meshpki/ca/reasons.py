"""Every reason to refuse a certificate request: values that answers, logs, metrics and audit records share."""

from __future__ import annotations

from enum import StrEnum

from meshpki.errors import RefusedError


class CsrReason(StrEnum):
    """Why a certificate signing request was refused. Values are never re-used for another meaning."""

    TOO_LARGE = "csr_too_large"
    NOT_PEM = "csr_not_pem"
    """Not exactly one CERTIFICATE REQUEST block with canonical base64."""
    MALFORMED = "csr_malformed"
    """No PKCS #10 request in DER, or one that cannot be read without guessing."""
    KEY_NOT_ALLOWED = "csr_key_not_allowed"
    """A kind of key, a curve, a size or an exponent that we do not certify."""
    KEY_INVALID = "csr_key_invalid"
    """A key of an allowed kind that is none: a point off its curve, parameters or an encoding out of form."""
    SIGNATURE_ALGORITHM_NOT_ALLOWED = "csr_signature_algorithm_not_allowed"
    BAD_SIGNATURE = "csr_bad_signature"
    """The sender has not shown that it holds the private key."""
    DUPLICATE_EXTENSION = "csr_duplicate_extension"
    EXTENSION_MALFORMED = "csr_extension_malformed"


class IdentityReason(StrEnum):
    """Why a caller does not get the identity that it asked for."""

    IMPERSONATION = "identity_impersonation"
    """Another identity than the caller's own."""
    MALFORMED = "identity_malformed"
    """What was asked for is no SPIFFE ID."""


class LifetimeReason(StrEnum):
    """Why there is no lifetime that a certificate could have."""

    TOKEN_EXPIRED = "lifetime_token_expired"
    """The profile ties certificates to the token's expiry, and that has passed."""
    TOKEN_NEEDED = "renewal_token_needed"
    """A certificate was renewed by itself for as long as the policy lets it: only a token helps now."""


class PeerReason(StrEnum):
    """Why a client certificate does not speak for a workload of ours. Values are never re-used."""

    MISSING = "peer_missing"
    MALFORMED = "peer_malformed"
    """Not exactly one certificate, or one that cannot be read without guessing."""
    UNKNOWN_ISSUER = "peer_unknown_issuer"
    """Not signed by the key that we issue with."""
    NOT_A_LEAF = "peer_not_a_leaf"
    """A certificate that may sign others, or may not sign a handshake."""
    NO_CLIENT_AUTH = "peer_no_client_auth"
    """Its extended key usage does not let it speak as a client: a server's own leaf."""
    EXPIRED = "peer_expired"
    NOT_YET_VALID = "peer_not_yet_valid"
    NOT_AN_SVID = "peer_not_an_svid"
    """Its names are not exactly one SPIFFE ID."""
    OTHER_TRUST_DOMAIN = "peer_other_trust_domain"
    NOT_A_WORKLOAD = "peer_not_a_workload"
    """Its SPIFFE ID is not of the form /ns/<namespace>/sa/<service account>."""
    WITH_TOKEN = "peer_with_token"
    """A token came along: two credentials, and no telling which of them is meant."""


class CsrRefusedError(RefusedError):
    """A certificate signing request was refused, for one reason."""

    def __init__(self, reason: CsrReason, seen: str, *, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason


class IdentityRefusedError(RefusedError):
    """A caller was refused an identity, for one reason."""

    def __init__(self, reason: IdentityReason, seen: str, *, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason


class LifetimeRefusedError(RefusedError):
    """A certificate would have ended before it began."""

    def __init__(self, reason: LifetimeReason, seen: str, *, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason


class PeerRefusedError(RefusedError):
    """A client certificate was refused as a credential, for one reason."""

    def __init__(self, reason: PeerReason, seen: str, *, wanted: str = "", todo: str = "") -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.reason = reason
