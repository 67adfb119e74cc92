"""`local.workloads`: the set of workloads that the supervisor keeps, and a directory for each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.errors import InvalidValueError, MachineError, MeshpkiError
from meshpki.hooks import EffectState, Observation
from meshpki.runtime.files import machine_errors, private_directory, read_capped, write_atomically
from meshpki_local import belongings, control, installation, processes
from meshpki_local.children import STOP_SECONDS
from meshpki_local.layout import NODE_AGENT, WorkloadPaths, account_of, agent_name
from meshpki_local.settings import Agents
from meshpki_local.standing import Kind, damaged, first_obstacle, foreign, is_directory, remove_file, remove_if_empty

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Params, Progress
    from meshpki.identity import ServiceAccountRef
    from meshpki_local.belongings import Place
    from meshpki_local.layout import Layout
    from meshpki_local.settings import Settings

_SDS_MODE: Final = 0o750
_LIMIT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Workloads:
    """A running supervisor follows local.json by itself; this effect waits until it has let go of what is removed."""

    layout: Layout
    settings: Settings

    def observe(self) -> Observation:
        """DIFFERENT where local.json says something else, or where a directory is missing or left over."""
        layout = self.layout
        directories = [paths.directory for paths in self._wanted_paths()]
        if found := first_obstacle(
            files=(layout.installation,), directories=(layout.workloads, *directories), others=self._served()
        ):
            return foreign(found)
        if not layout.installation.exists():
            return Observation(EffectState.ABSENT)
        try:
            installed = installation.read(layout.installation)
        except MeshpkiError as error:
            return damaged(error)
        if layout.installation.read_bytes() != installation.render(self.settings):
            return Observation(EffectState.DIFFERENT, _difference(installed, self.settings))
        missing = [path.name for path in directories if not path.is_dir()]
        places = (place.directory for place in self._other_agents())
        left = [*map(str, (*self._left_over(), *places, *self._other_statuses()))]
        if missing or left:
            return Observation(EffectState.DIFFERENT, f"directories missing: {missing}, left over: {left}")
        return Observation(EffectState.DONE)

    def undo_record(self) -> Params:
        """local.json as it stands."""
        path = self.layout.installation
        return {"before": read_capped(path, limit=_LIMIT).decode() if path.exists() else ""}

    def apply(self, progress: Progress) -> None:
        """Directories first, then the set; then wait for what is removed, and remove its directories."""
        private_directory(self.layout.workloads)
        for paths in self._wanted_paths():
            private_directory(paths.directory)
            if self.settings.agent is Agents.NODE:
                continue
            with machine_errors("could not make directory", paths.sds):
                paths.sds.mkdir(mode=_SDS_MODE, exist_ok=True)
                paths.sds.chmod(_SDS_MODE)
        write_atomically(self.layout.installation, installation.render(self.settings))
        progress("workloads: " + (", ".join(map(str, self.settings.workloads)) or "none"))
        self._remove(self._left_over(), progress)
        self._retire(progress)

    def gate(self, progress: Progress) -> None:
        """What runs is the supervisor's gate."""

    def undo(self, record: Params, progress: Progress) -> None:
        """Restore the set as it was; where there was none, remove every workload's directory."""
        before = record.get("before")
        if not isinstance(before, str):
            raise MachineError("the journal does not say what local.json was", todo="run provision again")
        if before:
            Workloads(self.layout, installation.parse(before.encode())).apply(progress)
            return
        remove_file(self.layout.installation)
        self._remove(self._present(), progress)
        self._end_agents({NODE_AGENT})
        self._take_away(belongings.node(self.layout), progress)
        if not remove_if_empty(self.layout.workloads):
            progress(f"{self.layout.workloads} is kept: it holds files that are not ours")

    def _wanted_paths(self) -> list[WorkloadPaths]:
        return [self.layout.workload(account) for account in self.settings.workloads]

    def _served(self) -> list[tuple[Path, Kind]]:
        """Where the agents will make something: an agent that finds something else there refuses to begin."""
        if self.settings.agent is Agents.NODE:
            return [(self.layout.node, Kind.OPEN_DIRECTORY), (self.layout.node_socket, Kind.SOCKET)]
        from meshpki.agent.files.set import DATA, NAMES

        return [
            served
            for paths in self._wanted_paths()
            for served in (
                (paths.sds, Kind.OPEN_DIRECTORY),
                (paths.socket, Kind.SOCKET),
                (paths.certificates, Kind.DIRECTORY),
                *((paths.certificates / name, Kind.LINK) for name in (DATA, *NAMES)),
                (paths.cache, Kind.DIRECTORY),
            )
        ]

    def _other_agents(self) -> list[Place]:
        """Where agents in the other place have left anything: what they served is no longer served."""
        places = [belongings.node(self.layout)]
        if self.settings.agent is Agents.NODE:
            places = [face for paths in self._wanted_paths() for face in belongings.faces(paths)]
        return [place for place in places if place.is_there]

    def _other_statuses(self) -> list[Path]:
        """What agents of workloads say of themselves, where a node's agent serves: it is no longer true."""
        node = self.settings.agent is Agents.NODE
        return [paths.status for paths in self._wanted_paths() if paths.status.is_file()] if node else []

    def _retire(self, progress: Progress) -> None:
        """End the agents of the other place, and remove what they left."""
        left, said = self._other_agents(), self._other_statuses()
        if not left and not said:
            return
        node = self.settings.agent is Agents.NODE
        self._end_agents({agent_name(account) for account in self.settings.workloads} if node else {NODE_AGENT})
        for place in left:
            self._take_away(place, progress)
        for path in said:
            remove_file(path)
        progress("the agents of the workloads are retired" if node else "the node's agent is retired")

    def _left_over(self) -> list[ServiceAccountRef]:
        return [account for account in self._present() if account not in self.settings.workloads]

    def _present(self) -> list[ServiceAccountRef]:
        """Every workload that has a directory with anything of ours in it."""
        if not is_directory(self.layout.workloads):
            return []
        found = []
        for path in sorted(self.layout.workloads.iterdir()):
            try:
                account = account_of(path.name)
            except InvalidValueError:
                continue
            if not path.is_symlink() and any(place.is_there for place in _places(WorkloadPaths(path))):
                found.append(account)
        return found

    def _remove(self, accounts: list[ServiceAccountRef], progress: Progress) -> None:
        if not accounts:
            return
        self._end_agents({agent_name(account) for account in accounts})
        for account in accounts:
            paths = self.layout.workload(account)
            gone = [place.take_away() for place in _places(paths)]
            if all(gone):
                progress(f"{account} removed")
            else:
                progress(f"{paths.directory} is kept: it holds files that are not ours")

    @staticmethod
    def _take_away(place: Place, progress: Progress) -> None:
        if not place.take_away():
            progress(f"{place.directory} is kept: it holds files that are not ours")

    def _end_agents(self, names: set[str]) -> None:
        """Let the supervisor end them; end those that nobody looks after."""
        agents = [found.ref for found in processes.find(self.layout.state) if found.name in names]
        if control.reload(self.layout):
            agents = processes.wait_gone(agents, 2 * STOP_SECONDS)
        processes.stop(agents, STOP_SECONDS)


def _places(paths: WorkloadPaths) -> tuple[Place, ...]:
    """The directory itself last, for the others are in it."""
    return (*belongings.faces(paths), belongings.workload(paths))


def _difference(installed: Settings | None, wanted: Settings) -> str:
    before, after = (dict(settings.params()) if settings else {} for settings in (installed, wanted))
    accounts = {
        name: set(settings.workloads) if settings else set()
        for name, settings in (("before", installed), ("after", wanted))
    }
    lines = [f"adds {account}" for account in sorted(accounts["after"] - accounts["before"])]
    lines += [f"removes {account}" for account in sorted(accounts["before"] - accounts["after"])]
    skip = {"workloads", "ca_port"}
    lines += [
        f"{name} {before.get(name)} -> {after[name]}"
        for name in after
        if name not in skip and before.get(name) != after[name]
    ]
    return "; ".join(lines) or "written differently"
