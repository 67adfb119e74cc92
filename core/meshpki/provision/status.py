"""How an installation stands: what the journal says was made, and what a look from outside finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki.errors import MeshpkiError, OperatorNeededError
from meshpki.hooks import Health, NotPossible
from meshpki.plugins import isolated
from meshpki.provision import codec, journal_file
from meshpki.provision.facts import absolute
from meshpki.provision.journal import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import ComponentStatus, Probe, WorkloadStatus
    from meshpki.plugins import PluginSet
    from meshpki.provision.journal import History, Run
    from meshpki.provision.mode import ModeChoice
    from meshpki.provision.plan import Plan

_WELL = frozenset({Health.RUNNING, Health.FRESH})


class Installed(StrEnum):
    """How far an installation got."""

    ABSENT = "absent"
    UNFINISHED = "unfinished"
    """A run was broken off or failed: the same command goes on."""
    COMPLETE = "complete"


@dataclass(frozen=True, slots=True)
class InstallationStatus:
    """One installation, for `meshpki status`. `problem` is empty unless it could not be examined."""

    state_dir: str
    installed: Installed
    platform: str = ""
    digest: str = ""
    choice: ModeChoice | None = None
    last_run: Run | None = None
    changes: tuple[str, ...] = ()
    """Ids of what stands in the world by our doing, in the order in which it was made."""
    components: tuple[ComponentStatus, ...] = ()
    workloads: tuple[WorkloadStatus, ...] = ()
    problem: str = ""

    @property
    def healthy(self) -> bool:
        """True when all is installed, could be examined, and is well."""
        return (
            self.installed is Installed.COMPLETE
            and not self.problem
            and all(item.health in _WELL for item in self.components)
            and all(item.health in _WELL for item in self.workloads)
        )


def probe_of(plugins: PluginSet, plan: Plan) -> Probe:
    """Ask the platform for its probe. Raises OperatorNeededError when the platform cannot propagate (any more)."""
    answer = plugins.propagate(plan.platform, plan.request)
    if isinstance(answer, NotPossible):
        raise OperatorNeededError(f"not possible here: {answer.reason}", todo=" or ".join(answer.ways_out))
    return answer.probe


def status(plugins: PluginSet, state_dir: Path, history: History) -> InstallationStatus:
    """Say how an installation stands. Raises nothing of the plugin's: that it cannot be examined is part of it."""
    plan, last = history.plan, history.runs[-1] if history.runs else None
    if plan is None or not (history.made or history.installed):
        return InstallationStatus(str(state_dir), Installed.ABSENT, last_run=last, problem=_lost(state_dir))
    try:
        plugin, probe = plugins.plugin(plan.platform), probe_of(plugins, plan)
        components = tuple(isolated(plugin, "components of the probe", probe.components))
        workloads = tuple(isolated(plugin, "workloads of the probe", probe.workloads))
        problem = ""
    except MeshpkiError as error:
        components, workloads, problem = (), (), str(error)
    return InstallationStatus(
        state_dir=str(state_dir),
        installed=_installed(history),
        platform=plan.platform,
        digest=plan.digest,
        choice=plan.choice,
        last_run=last,
        changes=tuple(item.id for item in history.made),
        components=components,
        workloads=workloads,
        problem=problem,
    )


def _lost(state_dir: Path) -> str:
    """Say that files are there and no journal is, as when that was lost; empty otherwise."""
    place = absolute(state_dir)
    found = () if journal_file.exists(place / journal_file.FILE) else journal_file.others(place)
    if not found:
        return ""
    some = codec.names(found[:3]) + (", ..." if len(found) > 3 else "")
    return (
        f"no journal is there, and yet there are {some}: if meshpki made them, put back a copy of {journal_file.FILE}; "
        "without it nothing of that is known to be ours, and deprovision will leave it"
    )


def _installed(history: History) -> Installed:
    whole = bool(history.runs) and history.runs[-1].outcome is Outcome.DONE
    return Installed.COMPLETE if whole else Installed.UNFINISHED
