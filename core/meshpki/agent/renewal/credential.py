"""What an identity is asked for with: the workload's token, or else the certificate that is still valid."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

if TYPE_CHECKING:
    from meshpki.agent.rotation.snapshot import Snapshot


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


def certificate_in_place_of_token(
    held: Snapshot | None, *, renewable: bool, now: float
) -> CertificateCredential | None:
    """The certificate to ask with when no token is worth sending; None when there is none to ask with either.

    A fresh token always comes first: it proves anew what the certificate only repeats, and the CA bounds how long it
    may be repeated. `renewable`: whether the CA has an address for it. `now` is epoch seconds.
    """
    if not renewable or held is None or not held.not_before <= now < held.not_after:
        return None
    return CertificateCredential(held.chain_pem, held.key_pem)


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
