"""What is to be proven: whose identity, for which audience and trust domain, and how long to wait for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from meshpki.errors import InvalidValueError, UsageError
from meshpki.identity import ServiceAccountRef, SpiffeId, TrustDomain

NAME: Final = "meshpki-verify"
"""Of the probe account, its pod and its Secret. Always the same, so that RBAC can name them and nothing else."""
COMPONENT: Final = "verify"
BUDGET_SECONDS: Final = 480.0
"""After so long nothing new is begun: what stands for ten minutes counts as left by a dead run (`throw_away`)."""


@dataclass(frozen=True, slots=True)
class Question:
    """What the operator wants proven. Raises UsageError for what cannot be meant."""

    trust_domain: TrustDomain
    namespace: str = "default"
    """Where the probe account stands for a while."""
    audience: str = "istio-ca"
    """The mesh's: what the CA accepts."""
    other_trusted: bool = False
    """Whether the other cluster is one that the CA trusts, too."""
    require_revocation: bool = False
    """Whether a CA that still takes a token whose pod is gone fails."""
    revocation_seconds: float = 60.0
    """By then the CA must have heard that a pod is gone whose token it took before."""
    legacy_seconds: float = 10.0
    """How long to wait for a controller that fills the Secret with a legacy token."""

    def __post_init__(self) -> None:
        try:
            ServiceAccountRef(self.namespace, NAME)
        except InvalidValueError as error:
            raise UsageError(f"namespace {self.namespace!r:.80}", wanted="a namespace's name") from error
        if not self.audience or not self.audience.isprintable():
            raise UsageError(f"audience {self.audience!r:.80}", wanted="the audience that the CA accepts")

    @property
    def account(self) -> ServiceAccountRef:
        """The probe account."""
        return ServiceAccountRef(self.namespace, NAME)

    @property
    def spiffe_id(self) -> SpiffeId:
        """What the CA must call it."""
        return SpiffeId.for_service_account(self.trust_domain, self.account)
