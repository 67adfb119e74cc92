"""`local.ca-material`: root and issuing certificate with their keys, made once and never replaced by provision."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.ca import material
from meshpki.errors import MeshpkiError
from meshpki.hooks import EffectState, Observation
from meshpki.identity import TrustDomain
from meshpki_local import belongings
from meshpki_local.standing import Kind, damaged, foreign, obstacle

if TYPE_CHECKING:
    from meshpki.hooks import Params, Progress
    from meshpki_local.layout import Layout


@dataclass(frozen=True, slots=True)
class CaMaterial:
    """A key that exists is never replaced: another trust domain is another installation."""

    layout: Layout
    trust_domain: str

    def observe(self) -> Observation:
        """DONE for a whole authority of this trust domain, DAMAGED for what is none; FOREIGN for anything else."""
        if found := obstacle(self.layout.ca, Kind.DIRECTORY):
            return foreign(found)
        try:
            if not material.exists(self.layout.ca):
                return self._if_empty()
            found_domain = material.describe(self.layout.ca, time.time()).trust_domain
        except MeshpkiError as error:
            return damaged(error)
        if str(found_domain) != self.trust_domain:
            return foreign(
                f"{self.layout.ca} holds the authority of {found_domain}, wanted: {self.trust_domain}; "
                f"name another --state-dir, or deprovision this one first"
            )
        return Observation(EffectState.DONE, f"the authority of {found_domain}")

    def undo_record(self) -> Params:
        """Whether an authority was there before."""
        return {"existed": material.exists(self.layout.ca)}

    def apply(self, progress: Progress) -> None:
        """Make the four files together, or keep those that are there."""
        made = material.create(self.layout.ca, trust_domain=TrustDomain(self.trust_domain), now=time.time())
        progress(f"the authority of {self.trust_domain} {'is made' if made else 'is there already'}")

    def gate(self, progress: Progress) -> None:
        """Load and examine it as the CA does. Raises MachineError, InvalidValueError, IntegrityError."""
        found = material.describe(self.layout.ca, time.time())
        progress(f"chain and key of {found.trust_domain} belong together")

    def undo(self, record: Params, progress: Progress) -> None:
        """Remove the files and what a killed `apply` left beside them, unless an authority was there before."""
        if record.get("existed"):
            return
        for left in self.layout.state.glob(f".{self.layout.ca.name}.new.*"):
            belongings.authority(left).take_away()
        if not belongings.authority(self.layout.ca).take_away():
            progress(f"{self.layout.ca} is kept: it holds files that are not ours")

    def _if_empty(self) -> Observation:
        if self.layout.ca.exists() and any(self.layout.ca.iterdir()):
            return foreign(f"{self.layout.ca} holds other files; move them away")
        return Observation(EffectState.ABSENT)
