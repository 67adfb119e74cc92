"""What an identity is asked for with: the workload's token, or the certificate that is still valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from meshpki.agent.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class TokenCredential:
    """A service-account token, as it goes behind `Bearer `."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class CertificateCredential:
    """The certificate held now, for mutual TLS with the CA. PEM, leaf first; the key is PKCS#8."""

    chain_pem: bytes
    key_pem: bytes = field(repr=False)


Credential: TypeAlias = TokenCredential | CertificateCredential


class CredentialSource(Protocol):
    """Where one identity's credential comes from."""

    async def read(self, now: float, held: Snapshot | None) -> Credential:
        """Give what to ask with at `now` (epoch seconds), while `held` is being served.

        Raises a MeshpkiError when there is nothing worth sending: the keeper waits and says so.
        """
        ...

    async def changed(self) -> None:
        """Return once there may be another token than at the last `read`. Never, where none can come.

        Called only while another token would help, and cancelled when it no longer would.
        """
        ...
