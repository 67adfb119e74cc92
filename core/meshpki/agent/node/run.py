"""Node mode as a process: one socket for every workload of the node, and a status file without a secret in it."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from typing import TYPE_CHECKING, Final

from meshpki.agent.node.sessions import NodeSessions
from meshpki.agent.node.token import check_header
from meshpki.agent.process.status_file import StatusFile
from meshpki.agent.process.until_stopped import serve_until_signal, until_stopped
from meshpki.agent.renewal.ca_client import CaClient
from meshpki.agent.renewal.keeper import Wish
from meshpki.agent.renewal.ledger import UNNAMED
from meshpki.agent.renewal.roots_file import RootsFile
from meshpki.agent.rotation import status
from meshpki.agent.sds.service import sds_methods
from meshpki.agent.socket import connections
from meshpki.agent.socket import path as socket_path
from meshpki.agent.socket.reflection_service import with_reflection
from meshpki.agent.socket.server import SocketServer
from meshpki.agent.workload.service import workload_methods
from meshpki.errors import ExitCode
from meshpki.runtime.watch import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from meshpki.agent.node.cache_line import NodeCacheLine
    from meshpki.agent.node.config import NodeConfig
    from meshpki.agent.node.sessions import Standing
    from meshpki.agent.process.observe import NodeCounts, Observer
    from meshpki.agent.renewal.keeper import KeeperStatus
    from meshpki.agent.rotation.failure import Failure

log = logging.getLogger(__name__)

STATUS_SECONDS: Final = 1.0
"""The status of a thousand workloads is written at most this often, however much changes."""


def run_node(config: NodeConfig) -> int:
    """Serve until SIGTERM, SIGINT or the end of the terminal; returns the exit status.

    Raises MachineError when the socket cannot be served.
    """
    agent = NodeAgent(config)
    serve_until_signal(agent.run, agent.look)
    return ExitCode.DONE


class NodeAgent:
    """One node's agent. `clock` gives epoch seconds, `chance` numbers in [0, 1)."""

    def __init__(
        self,
        config: NodeConfig,
        *,
        clock: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._clock = clock
        self._watcher = Watcher()
        self._roots = RootsFile(config.ca_roots, self._watcher)
        self._roots.reload()
        self.sessions = NodeSessions(
            Wish(config.ttl_seconds, config.key_type),
            CaClient(config.ca_address, config.ca_server_name, self._roots, config.cluster, config.call_seconds),
            self._roots,
            config.limits,
            at_once=config.at_once,
            header=check_header(config.token_header),
            cache=_cache(config),
            clock=clock,
            chance=chance,
        )
        self._status = StatusFile(config.status_file) if config.status_file is not None else None

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until `stopping` is set. Raises MachineError at the start only.

        The socket is there at once: unlike in pod mode there is no one certificate to wait for, and each stream waits
        for its own.
        """
        self._prepare()
        observer = self._observe()
        try:
            await until_stopped(stopping, self._serve(), self._roots.run(), self.sessions.run(stopping), self._tell())
        finally:
            self._watcher.close()
            if observer is not None:
                await asyncio.to_thread(observer.close)

    def look(self) -> None:
        """Look at the files that are followed now, and not only when inotify or the clock says so."""
        self._watcher.look()

    async def _serve(self) -> None:
        wanted = connections.for_node(self._config.limits.identities)
        most = connections.most(wanted, calls_at_once=self._config.at_once)
        methods = with_reflection((*sds_methods(), *workload_methods()))

        patience = self._config.patience_seconds
        server = SocketServer(self._config.socket, self.sessions, methods, connections=most, patience=patience)
        await server.start()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await server.stop()

    def _prepare(self) -> None:
        socket_path.prepare(self._config.socket)
        if self._status is not None:
            self._status.begin()

    def _observe(self) -> Observer | None:
        """Show health and metrics, if it is wanted. Raises MachineError when the port cannot be had.

        How each workload stands is for the metrics: one whose token is refused must not take the others' agent out of
        service. See `unready` for when there is nobody whom it serves.
        """
        if not self._config.http:
            return None
        from meshpki.agent.process.config import listen_address
        from meshpki.agent.process.observe import Observer  # here: the metrics library is not for those who show none

        host, port = listen_address(self._config.http)
        observer = Observer(
            host,
            port,
            statuses=self._statuses,
            counts=self.sessions.counts,
            unready=self._unready,
            node=self._counts,
        )
        log.info("health and metrics are shown", extra={"address": host, "port": observer.port})
        return observer

    def _statuses(self) -> list[KeeperStatus]:
        now = self._clock()
        return [standing.identity.keeper.status(now) for standing in self.sessions.standings()]

    def _counts(self) -> NodeCounts:
        from meshpki.agent.process.observe import Failing, NodeCounts

        phases = {phase.value: n for phase, n in self.sessions.phases().items()}
        waiting = [
            Failing(UNNAMED, state.failure, state.failing_since)
            for state in self.sessions.unanswered()
            if state.failure is not None
        ]
        return NodeCounts(self.sessions.refused(), phases, waiting)

    def _unready(self) -> tuple[str, ...]:
        if not self._config.socket.is_socket():
            return ("the socket is not there",)
        failures = [state.failure for state in self.sessions.unanswered() if state.failure is not None]
        return unready(self._statuses(), failures, self._clock())

    async def _tell(self) -> None:
        """Keep the status file true."""
        if self._status is None:
            await asyncio.get_running_loop().create_future()
            return
        while True:
            moved = self.sessions.moves()
            await asyncio.to_thread(self._status.write, status.as_json(render(self.sessions, self._clock())))
            await asyncio.sleep(STATUS_SECONDS)
            await asyncio.wait([moved])


def _cache(config: NodeConfig) -> NodeCacheLine | None:
    if config.cache is None:
        return None
    from meshpki.agent.node.cache_line import NodeCacheLine, bounds_for  # here: nearly no agent of a node has one

    ca = " ".join((config.ca_address, config.ca_server_name, config.cluster))
    return NodeCacheLine(config.cache, bounds_for(config.limits.identities), ca)


def unready(accepted: Sequence[KeeperStatus], unanswered: Sequence[Failure], now: float) -> tuple[str, ...]:
    """Say why nobody is served; nothing when somebody is, or when nobody has asked to be.

    `accepted`: how each accepted token stands; `unanswered`: what keeps others from the CA's word. A refusal keeps
    nobody: the next one may be accepted.
    """
    from meshpki.agent.process.observe import not_serving

    if any(not not_serving(status, now) for status in accepted):
        return ()
    expired = (f"none of {len(accepted)} certificates is valid",) if accepted else ()
    if not unanswered:
        return expired
    reasons = ", ".join(sorted({failure.reason for failure in unanswered}))
    return (*expired, f"nobody is served, and {len(unanswered)} wait for the CA: {reasons}")


def render(sessions: NodeSessions, now: float) -> Mapping[str, object]:
    """Give the status: how many tokens stand where, and each accepted one as `status.fields`, with phase and streams.

    `from_cache`: what is served is of an earlier run, and the CA has not answered since.

    Of a token that the CA has not accepted only the number is told, and of those refused for which reason: the names
    in it are nobody's word.
    """
    return {
        "mode": "node",
        "tokens": {phase.value: count for phase, count in sessions.phases().items()},
        "refused": dict(sorted(sessions.refused().items())),
        "identities": sorted((_identity(standing, now) for standing in sessions.standings()), key=_order),
    }


def _identity(standing: Standing, now: float) -> Mapping[str, object]:
    keeper = standing.identity.keeper
    about = {"phase": standing.phase.value, "streams": standing.streams, "from_cache": keeper.resumed}
    return {**status.fields(keeper.state, now), **about}


def _order(identity: Mapping[str, object]) -> tuple[str, str]:
    return str(identity["spiffe_id"]), str(identity["serial"])
