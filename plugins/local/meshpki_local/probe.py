"""A local installation examined from outside, for `verify` and `status`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import OperatorNeededError
from meshpki.hooks import CaEndpoint, ComponentStatus, Health, WorkloadStatus
from meshpki.runtime.files import read_capped
from meshpki_local import control, issuer_key, processes, statuses
from meshpki_local.children import STABLE_SECONDS, Phase
from meshpki_local.issuer import TokenRequest, mint
from meshpki_local.ports import read_ports
from meshpki_local.settings import AUDIENCE, SERVER_NAME, Agents, show_count
from meshpki_local.specs import CA, agent_of
from meshpki_local.token_keeper import node_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.identity import ServiceAccountRef
    from meshpki_local.layout import Layout
    from meshpki_local.run_file import ChildRecord, RunRecord
    from meshpki_local.settings import Settings

_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class LocalProbe:
    """`hooks.Probe` over the files of an installation and the process table."""

    layout: Layout
    settings: Settings

    @property
    def audience(self) -> str:
        """The audience that the CA accepts."""
        return AUDIENCE

    @property
    def trust_domain(self) -> str:
        """The trust domain of all identities."""
        return self.settings.trust_domain

    def ca(self) -> CaEndpoint:
        """Read where the CA is. Raises OperatorNeededError when nothing is installed."""
        config = self.layout.ca_config
        ports = read_ports(read_capped(config, limit=_LIMIT)) if config.exists() else None
        if ports is None or not self.layout.root_certificate.exists():
            raise OperatorNeededError(
                f"{self.layout.state} holds no whole local installation",
                todo=f"run {self.layout.command('provision')}",
            )
        roots = read_capped(self.layout.root_certificate, limit=_LIMIT)
        return CaEndpoint(ports.grpc_address, SERVER_NAME, roots)

    def mint(self, account: ServiceAccountRef, *, audience: str, lifetime_seconds: int) -> str:
        """Sign a token of any account, any audience, any life. Raises MachineError, IntegrityError."""
        key = issuer_key.load(self.layout.token_key)
        request = TokenRequest(account, audience, lifetime_seconds)
        return mint(key, request, node=node_name(), now=int(time.time()))

    def components(self) -> Sequence[ComponentStatus]:
        """The supervisor, the CA, then the agents by name."""
        record = control.record(self.layout)
        known = {child.name: child for child in record.children} if record else {}
        orphans = {} if record else {found.name: found for found in processes.find(self.layout.state)}
        names = [CA, *dict.fromkeys(agent_of(account, self.settings) for account in self.settings.workloads)]
        return [
            _supervisor(self.layout, record),
            *(
                ComponentStatus(name, Health.RUNNING, f"pid {orphans[name].ref.pid}, without a supervisor")
                if name in orphans
                else _child(name, known.get(name), time.time())
                for name in names
            ),
        ]

    def workloads(self) -> Sequence[WorkloadStatus]:
        """Each workload as `statuses.read` finds it, aged by our clock; in the order of their names."""
        alive = {component.name for component in self.components() if component.health is Health.RUNNING}
        return [
            self._workload(account, agent_of(account, self.settings) in alive) for account in self.settings.workloads
        ]

    def _workload(self, account: ServiceAccountRef, alive: bool) -> WorkloadStatus:
        paths = self.layout.workload(account)
        status = statuses.read(self.layout, self.settings, account)
        path = self.layout.node_socket if self.settings.agent is Agents.NODE else paths.socket
        socket = str(path) if path.is_socket() else ""
        directory = str(paths.certificates) if paths.certificates.exists() else ""
        if status is None:
            detail = "no certificate yet" if alive else "its agent does not run"
            return WorkloadStatus(account, Health.FAILED, sds_socket=socket, directory=directory, detail=detail)
        detail = status.failure if alive else f"its agent does not run{status.failure and '; ' + status.failure}"
        return WorkloadStatus(
            account, status.at(time.time()), status.spiffe_id, status.not_after, socket, directory, detail
        )


def _supervisor(layout: Layout, record: RunRecord | None) -> ComponentStatus:
    if record is None:
        todo = f"start it by {layout.command('provision')}, or {layout.command('run')}"
        return ComponentStatus(control.SUPERVISOR, Health.STOPPED, todo)
    if record.problems:
        return ComponentStatus(control.SUPERVISOR, Health.FAILED, "; ".join(record.problems))
    return ComponentStatus(control.SUPERVISOR, Health.RUNNING, f"pid {record.pid}")


def _child(name: str, child: ChildRecord | None, now: float) -> ComponentStatus:
    if child is None:
        return ComponentStatus(name, Health.STOPPED)
    restarts = f", {show_count(child.restarts, 'restart')}" if child.restarts else ""
    # One that dies over and over is alive whenever it was just started again: that is not running.
    flaps = child.failures > 1 and now - child.since < STABLE_SECONDS
    if child.phase == Phase.WAITING or flaps:
        return ComponentStatus(name, Health.FAILED, f"{child.reason}{restarts}")
    return ComponentStatus(name, Health.RUNNING, f"pid {child.pid}{restarts}")
