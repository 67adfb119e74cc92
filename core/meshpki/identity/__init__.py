"""Names of workloads: trust domains, SPIFFE IDs and service accounts, parsed strictly and never guessed."""

from meshpki.identity.service_account import ServiceAccountRef
from meshpki.identity.spiffe_id import SpiffeId
from meshpki.identity.trust_domain import TrustDomain

__all__ = ["ServiceAccountRef", "SpiffeId", "TrustDomain"]
