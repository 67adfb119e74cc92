"""The faces of one identity together: each gets every new snapshot, and none takes another down with it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from meshpki.agent import socket_path
from meshpki.agent.feed import Feed
from meshpki.agent.file_set import FileSet
from meshpki.agent.resources import resources_of
from meshpki.agent.sds_server import SdsServer
from meshpki.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.snapshot import Snapshot

log = logging.getLogger(__name__)

FILES_RETRY_SECONDS: Final = 5.0


class Faces:
    """SDS and files. The Workload API will be a third, on the same socket and the same feed."""

    def __init__(self, sds_socket: Path | None, files: Path | None) -> None:
        self._sds_socket = sds_socket
        self._files = FileSet(files) if files is not None else None
        self._feed: Feed | None = None
        self._server: SdsServer | None = None
        self._unwritten: Snapshot | None = None
        self._retry_at = 0.0

    def prepare(self) -> None:
        """Fail now rather than at the first certificate. Raises MachineError."""
        if self._sds_socket is not None:
            socket_path.prepare(self._sds_socket)
        if self._files is not None:
            self._files.prepare()

    async def serve(self, snapshot: Snapshot) -> None:
        """Show the snapshot. The socket appears with the first one, for an SDS server that cannot answer yet would
        keep Envoy waiting for its next attempt (istio#22443). Raises MachineError when it cannot.
        """
        resources = resources_of(snapshot)
        if self._feed is not None:
            self._feed.publish(resources)
        elif self._sds_socket is not None:
            self._feed = Feed(resources)
            self._server = SdsServer(self._sds_socket, self._feed)
            await self._server.start()
        self._unwritten, self._retry_at = snapshot, 0.0
        await self.retry()

    async def retry(self) -> bool:
        """Write the files that are still to be written; True when none are. A full disk must not stop SDS."""
        if self._files is None or self._unwritten is None:
            return True
        if time.monotonic() < self._retry_at:
            return False
        try:
            await asyncio.to_thread(self._files.write, self._unwritten)
        except MachineError as error:
            self._retry_at = time.monotonic() + FILES_RETRY_SECONDS
            log.warning("the files could not be written", extra={"seen": error.seen, "todo": error.todo})
            return False
        self._unwritten = None
        return True

    async def stop(self) -> None:
        """Take the socket away. The files stay: programs go on with them until they expire."""
        if self._server is not None:
            await self._server.stop()
