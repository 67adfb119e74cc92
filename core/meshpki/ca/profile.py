"""What certificates this CA gives: lifetimes and the trust domain, validated once and immutable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError

if TYPE_CHECKING:
    from meshpki.identity import TrustDomain

DAY: Final = 86_400
LONGEST_TTL: Final = 90 * DAY
"""No profile goes beyond: istiod's MAX_WORKLOAD_CERT_TTL, and there is no revocation to shorten a mistake."""
LONGEST_BACKDATE: Final = 3_600


@dataclass(frozen=True, slots=True)
class Profile:
    """The policy of issuance. Lifetimes count from the moment of issue, in seconds; backdating comes on top.

    What is in a certificate beyond lifetimes is no policy but the rule of X509-SVID, and the same for all.
    """

    trust_domain: TrustDomain
    default_ttl_seconds: int = DAY
    """For a request that asks for none (0 or less)."""
    max_ttl_seconds: int = DAY
    backdate_seconds: int = 120
    """How far notBefore lies back, for clocks that run behind: 2 minutes as istiod's; step-ca has 1 minute."""
    clamp_to_token: bool = False
    """Whether a certificate ends with the token that it was given for."""
    max_without_token_seconds: int | None = None
    """How long after a token proved an identity its certificates may still be renewed by themselves; no certificate
    lives beyond. None: there is no renewal by certificate, and no time of attestation in the certificates."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError for a policy that contradicts itself."""
        if not 1 <= self.default_ttl_seconds <= self.max_ttl_seconds <= LONGEST_TTL:
            raise InvalidValueError(
                f"a default lifetime of {self.default_ttl_seconds} s and a greatest of {self.max_ttl_seconds} s",
                wanted=f"1 s <= default <= greatest <= {LONGEST_TTL} s (90 days)",
            )
        if not 0 <= self.backdate_seconds <= LONGEST_BACKDATE:
            raise InvalidValueError(
                f"backdating of {self.backdate_seconds} s", wanted=f"0 to {LONGEST_BACKDATE} s: clocks, not history"
            )
        if self.max_without_token_seconds is not None:
            self._check_renewal(self.max_without_token_seconds)

    def _check_renewal(self, longest: int) -> None:
        if not self.max_ttl_seconds < longest <= LONGEST_TTL:
            raise InvalidValueError(
                f"renewal by certificate for {longest} s after a token, with certificates of up to "
                f"{self.max_ttl_seconds} s",
                wanted=f"more than the greatest lifetime, and at most {LONGEST_TTL} s (90 days)",
                todo="give shorter certificates (max_ttl), or allow more time without a token (max_without_token)",
            )
        if self.clamp_to_token:
            raise InvalidValueError(
                "certificates that end with their token, and renewal without a token",
                wanted="one of the two: clamp_to_token: false, or no renewal by certificate",
            )
