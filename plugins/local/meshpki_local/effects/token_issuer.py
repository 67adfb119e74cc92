"""`local.token-issuer`: the key that signs service-account tokens, and its public half for the CA."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.errors import MeshpkiError
from meshpki.hooks import EffectState, Observation
from meshpki_local import belongings, issuer_key
from meshpki_local.standing import damaged, first_obstacle, foreign, sweep

if TYPE_CHECKING:
    from meshpki.hooks import Params, Progress
    from meshpki_local.layout import Layout


@dataclass(frozen=True, slots=True)
class TokenIssuer:
    """The key is made once and never replaced: every token in use was signed by it."""

    layout: Layout

    def observe(self) -> Observation:
        """DIFFERENT where only the public half is missing or another key's."""
        key, jwks = self.layout.token_key, self.layout.jwks
        if found := first_obstacle(files=(key, jwks), directories=(self.layout.tokens,)):
            return foreign(found)
        if not key.exists():
            return Observation(EffectState.DIFFERENT if jwks.exists() else EffectState.ABSENT, "no key")
        try:
            complete = issuer_key.is_complete(self.layout)
        except MeshpkiError as error:
            return damaged(error)
        return (
            Observation(EffectState.DONE)
            if complete
            else Observation(EffectState.DIFFERENT, "jwks.json is not the key's")
        )

    def undo_record(self) -> Params:
        """Whether the key was there before."""
        return {"key_existed": self.layout.token_key.exists()}

    def apply(self, progress: Progress) -> None:
        """Make the key if there is none, and write the public half."""
        sweep(self.layout.token_key)
        issuer_key.create(self.layout)
        progress(f"key {issuer_key.load(self.layout.token_key).kid} signs tokens")

    def gate(self, progress: Progress) -> None:
        """Nothing runs yet: what was written is what is observed."""

    def undo(self, record: Params, progress: Progress) -> None:
        """Remove both halves, unless the key was there before."""
        if record.get("key_existed"):
            return
        if not belongings.tokens(self.layout).take_away():
            progress(f"{self.layout.tokens} is kept: it holds files that are not ours")
