"""A credential source that helps itself with the certificate it holds while there is no token worth sending."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.agent.renewal.credential import certificate_in_place_of_token
from meshpki.errors import MeshpkiError

if TYPE_CHECKING:
    from meshpki.agent.renewal.credential import Credential, CredentialSource
    from meshpki.agent.rotation.snapshot import Snapshot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenFault:
    """Why there is no token worth sending, and since when (epoch seconds): the CA bounds how long that goes well."""

    reason: str
    since: float


class RenewingSource:
    """Tokens first, always. For one identity whose CA renews by certificate (`CaClient.renewal_address`)."""

    def __init__(self, tokens: CredentialSource, *, quiet: bool = False) -> None:
        """`quiet`: another source of the same tokens says what is wrong with them."""
        self._tokens = tokens
        self._quiet = quiet
        self.fault: TokenFault | None = None
        """Why the certificate was the credential when one was needed last; None where the token was."""

    async def read(self, now: float, held: Snapshot | None) -> Credential:
        """Give the token, or the certificate while `held` is valid. Raises as the source of tokens does.

        What is wrong with the token is said once, for it stays wrong however well the certificate serves.
        """
        try:
            credential = await self._tokens.read(now, held)
        except MeshpkiError as error:
            certificate = certificate_in_place_of_token(held, renewable=True, now=now)
            if certificate is None:
                raise
            self._say(error, now)
            return certificate
        self.fault = None
        return credential

    async def changed(self) -> None:
        """Return once there may be another token: that is what helps when the CA refuses the certificate."""
        await self._tokens.changed()

    def _say(self, error: MeshpkiError, now: float) -> None:
        before, reason = self.fault, str(getattr(error, "reason", "file"))
        log.log(
            logging.DEBUG if self._quiet or (before is not None and reason == before.reason) else logging.WARNING,
            "the token is at fault: the certificate that is held is the credential instead",
            extra={"fault": "token", "reason": reason, "seen": error.seen, "todo": error.todo},
        )
        self.fault = TokenFault(reason, now if before is None else min(before.since, now))
