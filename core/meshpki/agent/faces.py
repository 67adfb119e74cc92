"""Pod mode's faces of the one identity: each gets every new snapshot, and none takes another down with it."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from meshpki.agent import socket_path
from meshpki.agent.file_set import FileSet
from meshpki.agent.sds_service import sds_methods
from meshpki.agent.sessions import OneIdentity
from meshpki.agent.socket_server import SocketServer
from meshpki.agent.workload_service import workload_methods
from meshpki.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.feed import Feed
    from meshpki.agent.sds_files import SecretFiles
    from meshpki.agent.snapshot import Snapshot

log = logging.getLogger(__name__)

FILES_RETRY_SECONDS: Final = 5.0


class Faces:
    """The socket, which reads the feed itself, and the files, which are written here."""

    def __init__(
        self,
        sds_socket: Path | None,
        files: Path | None,
        feed: Feed,
        secret_files: SecretFiles,
        *,
        shared_directory: bool,
    ) -> None:
        self._sds_socket = sds_socket
        self._shared_directory = shared_directory
        self._secret_files = secret_files
        self._files = FileSet(files) if files is not None else None
        self._sessions = OneIdentity(feed)
        self._server: SocketServer | None = None
        self._unwritten: Snapshot | None = None
        self._retry_at = 0.0

    def prepare(self) -> None:
        """Fail now rather than at the first certificate. Raises MachineError."""
        if self._sds_socket is not None:
            socket_path.prepare(self._sds_socket, shared=self._shared_directory)
        if self._files is not None:
            self._files.prepare()

    async def show(self, snapshot: Snapshot) -> None:
        """Show the snapshot. The socket appears with the first one, for an SDS server that cannot answer yet would
        keep Envoy waiting for its next attempt (istio#22443). Raises MachineError when it cannot.
        """
        if self._server is None and self._sds_socket is not None:
            table = (*sds_methods(self._secret_files), *workload_methods())
            self._server = SocketServer(self._sds_socket, self._sessions, table)
            await self._server.start()
        self._unwritten, self._retry_at = snapshot, 0.0
        await self.retry()

    async def retry(self) -> None:
        """Write the files that are still to be written, if it is time. A full disk must not stop the socket."""
        if self._files is None or self._unwritten is None or time.monotonic() < self._retry_at:
            return
        try:
            await asyncio.to_thread(self._files.write, self._unwritten)
        except MachineError as error:
            self._retry_at = time.monotonic() + FILES_RETRY_SECONDS
            log.warning("the files could not be written", extra={"seen": error.seen, "todo": error.todo})
        else:
            self._unwritten = None

    def retry_in(self) -> float | None:
        """Seconds until `retry` has something to do; None when there is nothing."""
        if self._unwritten is None or self._files is None:
            return None
        return max(0.0, self._retry_at - time.monotonic())

    async def stop(self) -> None:
        """Take the socket away. The files stay: programs go on with them until they expire."""
        if self._server is not None:
            await self._server.stop()
