"""One port of the gRPC server: its method table, its TLS, its connections, its threads."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import grpc

from meshpki.ca.server.grpc_options import OPTIONS, connections
from meshpki.errors import MachineError

if TYPE_CHECKING:
    import threading

    from meshpki.ca.config_values import HostPort
    from meshpki.ca.server.method_adapter import MethodTable

_LOG = logging.getLogger(__name__)
DRAIN_SECONDS: Final = 10.0
RESERVED_FILES: Final = 256
"""For /livez and /metrics, the audit log, keys, API servers, and connections that are just being turned away."""


class Listener:
    """Listens from construction on, answers from `start` to `stop`. Threads are its own: none starves another's."""

    def __init__(
        self, at: HostPort, table: MethodTable, credentials: grpc.ServerCredentials, most: int, *, key: str
    ) -> None:
        """For `most` connections at a time. `key` is where the configuration names `at`. Raises MachineError."""
        self.table = table
        self._pool = table.lane.pool
        self._server = grpc.server(
            self._pool,  # type: ignore[arg-type]  # all that it calls is `submit`
            handlers=[table],
            options=(*OPTIONS, connections(most)),
        )
        try:
            port = self._server.add_secure_port(str(at), credentials)
        except RuntimeError as error:
            raise MachineError(
                f"could not listen on {at}",
                wanted="an address of this machine with a free port",
                todo=f"stop what listens there, or name another address under `{key}`",
            ) from error
        self.address = f"{str(at).rpartition(':')[0]}:{port}"
        """With the port that it got."""

    def start(self) -> None:
        """Answer from now on."""
        self._pool.start()
        self._server.start()

    def stop(self) -> threading.Event:
        """Take no new calls; the event is set when those under way have ended, within DRAIN_SECONDS."""
        return self._server.stop(DRAIN_SECONDS)

    def close(self) -> None:
        """Let the threads end; call it when the event of `stop` is set."""
        self._pool.stop()


def affordable(wanted: int, files: int, listeners: int) -> int:
    """How many connections each of so many listeners may have, where a process may have so many files open.

    Some are left for everything else, so that a server which takes no more connections still says that it lives.
    """
    share = (files - min(RESERVED_FILES, files // 4)) // listeners
    if share >= wanted:
        return wanted
    _LOG.warning(
        "fewer connections than configured: each takes an open file",
        extra={"connections": share, "configured": wanted, "open_files": files, "todo": "raise `ulimit -n`"},
    )
    return share
