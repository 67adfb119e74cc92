"""One port of the gRPC server: its method table, its TLS, its connections."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.ca.server.calls.grpc_core import CoreCall, CoreServer, call_of
from meshpki.ca.server.calls.grpc_options import OPTIONS, connections
from meshpki.errors import MachineError

if TYPE_CHECKING:
    from collections.abc import Callable

    import grpc

    from meshpki.ca.server.calls.grpc_core import CompletionQueue, Event, Metadata
    from meshpki.ca.server.calls.method_table import MethodTable

_LOG = logging.getLogger(__name__)
RESERVED_FILES: Final = 256
"""For /livez and /metrics, the audit log, keys, API servers, and connections that are just being turned away."""


@dataclass(frozen=True, slots=True)
class Door:
    """Where to listen, and whom to let in."""

    at: str
    """host:port."""
    key: str
    """Where the configuration names it."""
    credentials: grpc.ServerCredentials | None
    """None: without TLS."""
    connections: int
    """At a time."""


class Listener:
    """Listens from construction on, takes calls from `start` to `stop`."""

    def __init__(
        self,
        door: Door,
        table: MethodTable,
        queue: CompletionQueue,
        take: Callable[[CoreCall, str, Metadata], object],
        go_on: Callable[[Listener], object],
    ) -> None:
        """`take` has each call, and before it `go_on` sees to it that `accept` is called again: as soon as there is
        room for one more. Both in the queue's thread. Raises MachineError.
        """
        self.table = table
        self.ended = False
        """Whether it was stopped, and nothing is left of its calls."""
        self._take = take
        self._go_on = go_on
        self._server = CoreServer(queue, (*OPTIONS, connections(door.connections)))
        port = self._server.listen(door.at, door.credentials)
        if not port:
            self._server.destroy()
            raise MachineError(
                f"could not listen on {door.at}",
                wanted="an address of this machine with a free port",
                todo=f"stop what listens there, or name another address under `{door.key}`",
            )
        self.address = f"{door.at.rpartition(':')[0]}:{port}"
        """With the port that it got."""

    def start(self) -> None:
        """Take calls from now on."""
        self._server.start()
        self.accept()

    def accept(self) -> None:
        """Take one more call."""
        self._server.accept(self._called)

    def stop(self) -> None:
        """Take no new calls. Those under way go on; `ended` tells when there are none."""
        self._server.shut_down(self._all_ended)

    def cancel(self) -> None:
        """End those under way."""
        self._server.cancel_all_calls()

    def _called(self, event: Event) -> None:
        self._go_on(self)
        found = call_of(event)
        if found is not None:
            self._take(CoreCall(event), *found)

    def _all_ended(self, event: Event) -> None:  # noqa: ARG002  # a tag's form
        self._server.destroy()
        self.ended = True


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
