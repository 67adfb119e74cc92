"""A cluster whose tokens are believed: its terms, and by whose word, its keys' or its API server's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from meshpki.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.tokens.caller import Caller
    from meshpki.tokens.keys import VerificationKey
    from meshpki.tokens.policy import ClusterPolicy


class KeySource(Protocol):
    """Where the keys of one cluster come from."""

    def keys(self, kid: str | None, now: float) -> Sequence[VerificationKey]:
        """The keys that may have signed a token with that kid (None: it names none); none at all if it is unknown.

        `now` is epoch seconds. Raises UnavailableError when that cannot be told at present.
        """

    def at_once(self, kid: str | None, now: float) -> bool:
        """Whether `keys` would wait for nobody."""

    def known(self) -> Sequence[VerificationKey] | None:
        """All keys as they were last seen, however long ago; None if never. Waits for nobody."""

    def may_be_behind(self, issued_at: float, now: float) -> bool:
        """Whether the key of a token of that age may be unknown only because nobody has looked since."""


class Reviewer(Protocol):
    """Who asks a cluster's API server about a token."""

    def review(self, token: bytes, caller: Caller, now: float) -> None:
        """Return if the API server confirms what the token says: `caller` is made of its own claims.

        Raises TokenRefusedError, or TokenUnjudgedError when the API server cannot be asked.
        """


@dataclass(frozen=True, slots=True)
class TrustedCluster:
    """A cluster whose tokens we believe: on which terms, and by whose word: its keys', its API server's, or both's."""

    policy: ClusterPolicy
    keys: KeySource | None
    """None: the API server alone knows what is signed by the cluster."""
    reviewer: Reviewer | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for a cluster whose tokens nobody would examine."""
        if self.keys is None and self.reviewer is None:
            raise UsageError(f"cluster {self.policy.cluster} has neither keys nor an API server", wanted="one or both")
