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
