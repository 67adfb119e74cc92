"""Pod mode's credential: the token in the workload's own token file, read anew for every attempt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from meshpki.agent import token_file
from meshpki.agent.credential import TokenCredential

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.credential import Credential
    from meshpki.agent.snapshot import Snapshot

TOKEN_POLL_SECONDS: Final = 0.5
"""How often the token file is looked at (one stat) while a new token would help, and only then."""


class TokenFileSource:
    """A CredentialSource over a file that somebody else rewrites: the kubelet, or the local token issuer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: token_file.Fingerprint | None = None

    async def read(self, now: float, held: Snapshot | None) -> Credential:  # noqa: ARG002 - a token needs none
        """Read it. Raises TokenFileError or MachineError."""
        self._seen = token_file.fingerprint(self._path)
        return TokenCredential(token_file.read_token(self._path, now=now).value)

    async def changed(self) -> None:
        """Return once the file is another one than at the last `read`."""
        while token_file.fingerprint(self._path) == self._seen:
            await asyncio.sleep(TOKEN_POLL_SECONDS)
