"""Pod mode's credential: the token in the workload's own token file, read anew for every attempt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from meshpki.agent.renewal import token_file
from meshpki.agent.renewal.credential import TokenCredential

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.renewal.credential import Credential
    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.runtime.watch import Watcher


class TokenFileSource:
    """A CredentialSource over a file that somebody else rewrites: the kubelet, or the local token issuer."""

    def __init__(self, path: Path, watcher: Watcher) -> None:
        self._path = path
        self._watcher = watcher
        self._seen: token_file.Fingerprint | None = None

    async def read(self, now: float, held: Snapshot | None) -> Credential:  # noqa: ARG002 - a token needs none
        """Read it. Raises TokenFileError or MachineError."""
        self._seen = token_file.fingerprint(self._path)
        return TokenCredential(token_file.read_token(self._path, now=now).value)

    async def changed(self) -> None:
        """Return once the file is another one than at the last `read`. It is watched for so long, and no longer."""
        watch = self._watcher.watch(self._path)
        try:
            while True:
                changed = watch.changes()
                if token_file.fingerprint(self._path) != self._seen:
                    return
                await asyncio.wait([changed])
        finally:
            watch.close()
