"""Pod mode's faces of the one identity: each gets every new snapshot, and none takes another down with it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket import connections
from meshpki.agent.socket import path as socket_path
from meshpki.agent.socket.reflection_service import with_reflection
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.socket.sessions import OneIdentity
from meshpki.agent.workload.service import workload_methods
from meshpki.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.files.face import FilesFace
    from meshpki.agent.files.standing import FilesStanding
    from meshpki.agent.rotation.feed import Feed
    from meshpki.agent.rotation.snapshot import Snapshot
    from meshpki.agent.sds.files import SecretFiles

log = logging.getLogger(__name__)


class Faces:
    """The socket and the files. Both follow the feed by themselves from the first snapshot on."""

    def __init__(
        self,
        sds_socket: Path | None,
        files: FilesFace | None,
        feed: Feed,
        secret_files: SecretFiles,
        *,
        shared_directory: bool,
    ) -> None:
        self._sds_socket = sds_socket
        self._shared_directory = shared_directory
        self._secret_files = secret_files
        self._files = files
        self._sessions = OneIdentity(feed)
        self._server: SocketServer | None = None
        self._begun = False

    @property
    def files(self) -> FilesStanding | None:
        """How the files stand; None where there are to be none."""
        return self._files.standing if self._files is not None else None

    def prepare(self) -> None:
        """Fail now rather than at the first certificate. Raises MachineError.

        Trouble with the files is none while there is a socket: it is said, and tried again with the first certificate.
        """
        if self._sds_socket is not None:
            socket_path.prepare(self._sds_socket, shared=self._shared_directory)
        if self._files is not None:
            try:
                self._files.prepare()
            except MachineError as error:
                if self._sds_socket is None:
                    raise
                log.warning("there can be no files yet", extra={"seen": error.seen, "todo": error.todo})

    async def show(self, snapshot: Snapshot) -> None:
        """Wait until the feed's snapshot is shown. The socket appears with the first one, for an SDS server that cannot
        answer yet would keep Envoy waiting for its next attempt (istio#22443). Raises MachineError when it cannot.
        """
        if not self._begun:
            await self._begin()
            self._begun = True
        if self._files is not None:
            await self._files.tried(snapshot)

    async def _begin(self) -> None:
        if self._sds_socket is not None:
            table = with_reflection((*sds_methods(self._secret_files), *workload_methods()))
            most = connections.most(connections.POD, calls_at_once=1)
            self._server = SocketServer(self._sds_socket, self._sessions, table, connections=most)
            await self._server.start()
        if self._files is not None:
            self._files.start()

    async def stop(self) -> None:
        """Take the socket away. The files stay: programs go on with them until they expire."""
        if self._files is not None:
            await self._files.stop()
        if self._server is not None:
            await self._server.stop()
