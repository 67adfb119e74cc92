"""`local.supervisor`: the process that keeps an installation alive, in the background, gated on certificates."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import meshpki
from meshpki.errors import MachineError, MeshpkiError
from meshpki.hooks import EffectState, Observation
from meshpki.runtime.files import read_capped
from meshpki_local import belongings, control, disk, processes, readiness, statuses
from meshpki_local.judgement import Seen, is_hopeless, not_healthy
from meshpki_local.ports import Ports, check_free, read_ports
from meshpki_local.processes import ProcessRef
from meshpki_local.settings import show_count
from meshpki_local.specs import CA, agent_of, wanted_children
from meshpki_local.standing import first_obstacle, foreign

if TYPE_CHECKING:
    from meshpki.hooks import Params, Progress
    from meshpki_local.children import ChildSpec
    from meshpki_local.layout import Layout
    from meshpki_local.settings import Settings

GATE_SECONDS: Final = 90.0
_POLL: Final = 0.1
_LIMIT: Final = 1 << 20
_TAIL_LINES: Final = 6


@dataclass(frozen=True, slots=True)
class SupervisorProcess:
    """It follows changed files by itself, so an update is a nudge; only another version of meshpki restarts it."""

    layout: Layout
    settings: Settings
    gate_seconds: float = GATE_SECONDS

    def observe(self) -> Observation:
        """DONE when exactly the wanted processes run, each as it is wanted now, and every workload is well."""
        layout = self.layout
        if found := first_obstacle(files=(layout.lock, layout.run_file), directories=(layout.run, layout.logs)):
            return foreign(found)
        if control.running(layout) is None:
            return Observation(EffectState.ABSENT, "the supervisor does not run")
        try:
            missing = not_healthy(self._look(self._ports()), self._wanted(), self.settings, meshpki.__version__)
        except MeshpkiError as error:
            return Observation(EffectState.DIFFERENT, str(error))
        return Observation(EffectState.DIFFERENT, "; ".join(missing)) if missing else Observation(EffectState.DONE)

    def undo_record(self) -> Params:
        """Whether it runs."""
        return {"ran": control.running(self.layout) is not None}

    def apply(self, progress: Progress) -> None:
        """Start it, or make the one that runs look at its files.

        Raises MachineError when a port is taken, or the disk full.
        """
        disk.check_room(self.layout.state, disk.TO_BEGIN)
        record = control.record(self.layout)
        if record is not None and record.version != meshpki.__version__:
            progress(f"the supervisor of version {record.version} is stopped")
            control.stop(self.layout)
        if control.reload(self.layout):
            progress("the supervisor reads its configuration again")
            return
        if not any(found.name == CA for found in processes.find(self.layout.state)):
            ports = self._ports()
            for port in (ports.grpc, ports.http, ports.renewal):
                if port:
                    check_free(port)
        control.start(self.layout)
        progress(f"the supervisor runs, its log is {self.layout.log(control.SUPERVISOR)}")

    def gate(self, progress: Progress) -> None:
        """Wait until the CA is ready and every workload has a certificate of its agent's present run."""
        began, said = time.monotonic(), ""
        ports, wanted = self._ports(), self._wanted()
        while missing := not_healthy(seen := self._look(ports), wanted, self.settings, meshpki.__version__):
            self._check_disk(missing)
            if time.monotonic() > began + self.gate_seconds or is_hopeless(seen.record):
                raise self._unhealthy(missing, time.monotonic() - began)
            if missing[0] != said:
                said = missing[0]
                progress(f"waiting: {said}")
            time.sleep(_POLL)
        progress(f"the CA is ready, certificates: {show_count(len(self.settings.workloads), 'workload')}")

    def undo(self, record: Params, progress: Progress) -> None:
        """Stop it and all that it started; if it ran before, keep it at work on what the other changes restore."""
        if record.get("ran"):
            if not control.reload(self.layout):
                control.start(self.layout)
            return
        if control.stop(self.layout):
            progress("the supervisor and its children have ended")
        for place in (belongings.run(self.layout), belongings.logs(self.layout)):
            if not place.take_away():
                progress(f"{place.directory} is kept: it holds files that are not ours")

    def _wanted(self) -> tuple[ChildSpec, ...]:
        return wanted_children(self.layout, self.settings, self._ports())

    def _ports(self) -> Ports:
        path = self.layout.ca_config
        ports = read_ports(read_capped(path, limit=_LIMIT))
        if ports is None:
            raise MachineError(f"{path} does not name its ports as provision writes them", todo="run provision again")
        return ports

    def _look(self, ports: Ports) -> Seen:
        record, now = control.record(self.layout), time.time()
        found = {account: statuses.read(self.layout, self.settings, account) for account in self.settings.workloads}
        children = record.children if record else ()
        refs = {child.name: ProcessRef(child.pid, child.start_ticks) for child in children if child.pid}
        started = {name: now - processes.age(ref) for name, ref in refs.items() if name != CA}
        return Seen(record, readiness.is_ready(ports), found, started, now)

    def _check_disk(self, missing: list[str]) -> None:
        """No process can say that the disk is full, for what it says goes there."""
        try:
            disk.check_room(self.layout.state, disk.TO_GO_ON)
        except MachineError as error:
            error.evidence += tuple(missing)
            raise

    def _unhealthy(self, missing: list[str], seconds: float) -> MachineError:
        """The error, with the end of the log that tells most: undoing removes the logs."""
        names = [CA, *(agent_of(account, self.settings) for account in self.settings.workloads), control.SUPERVISOR]
        first = next((name for name in names if any(line.startswith(f"{name} ") for line in missing)), CA)
        log = control.tail(self.layout.log(first), _TAIL_LINES)
        return MachineError(
            f"not healthy after {seconds:.0f} s: {missing[0]}",
            wanted="the CA ready, and every workload with a certificate",
            todo="see the evidence, put right what it says, then run the same command again",
            evidence=(*missing, *(f"log of {first}: {line}" for line in log)),
        )
