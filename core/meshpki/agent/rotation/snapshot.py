"""What the agent holds of an identity at one moment: key, chain and bundle that belong together."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshpki.identity import SpiffeId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One X509-SVID with its key and the roots to check peers against. Every face serves the same one.

    Times are epoch seconds. PEM throughout: `chain_pem` is leaf first and without the root, `key_pem` PKCS#8 without
    a password, `bundle_pem` one or more roots.
    """

    spiffe_id: SpiffeId
    serial: int
    not_before: int
    not_after: int
    chain_pem: bytes
    bundle_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def identity_version(self) -> str:
        """Tells this certificate from every other one of its issuer."""
        return f"{self.serial:x}"

    @property
    def bundle_version(self) -> str:
        """Tells this set of roots from another."""
        return hashlib.sha256(self.bundle_pem).hexdigest()[:16]

    @property
    def version(self) -> str:
        """Changes whenever anything that is served changes."""
        return f"{self.identity_version}.{self.bundle_version}"
