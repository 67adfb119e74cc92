"""What in an installation's directories is ours, by the names that our processes give: found, and taken away alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.errors import InvalidValueError
from meshpki.runtime.files import machine_errors
from meshpki_local.layout import NODE_AGENT, account_of
from meshpki_local.standing import is_directory, own_files, remove_if_empty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from meshpki_local.layout import Layout, WorkloadPaths


@dataclass(frozen=True, slots=True)
class Place:
    """A directory that we make, and how what is ours in it is found, in the order in which it can be removed."""

    directory: Path
    find: Callable[[], Iterable[Path]]

    def own(self) -> list[Path]:
        """All that is ours; nothing where the directory itself is not: a link to one is somebody else's."""
        return list(self.find()) if is_directory(self.directory) else []

    @property
    def is_there(self) -> bool:
        """Whether there is anything of ours to take away; a directory with nothing in it is."""
        return bool(self.own()) or (is_directory(self.directory) and not any(self.directory.iterdir()))

    def take_away(self) -> bool:
        """Remove what is ours, and the directory if nothing is left in it; True when it is gone. MachineError."""
        with machine_errors("could not remove what is ours in", self.directory):
            for path in self.own():
                remove_if_empty(path) if is_directory(path) else path.unlink(missing_ok=True)
            return remove_if_empty(self.directory)


def audit(layout: Layout) -> Place:
    """The CA's issuance log, with the file that says where it ends."""
    from meshpki.ca.audit.file import head_path

    log = layout.issuance_log
    return Place(layout.audit, lambda: own_files(log, head_path(log)))


def run(layout: Layout) -> Place:
    """What the supervisor knows while it runs."""
    return Place(layout.run, lambda: own_files(layout.lock, layout.run_file))


def logs(layout: Layout) -> Place:
    """The logs, also of workloads that have been removed since."""
    return Place(layout.logs, lambda: (path for path in own_files(*layout.logs.iterdir()) if _is_log(path.name)))


def authority(directory: Path) -> Place:
    """The CA's material; in the directory beside it, what a killed run left that was making it."""
    from meshpki.ca import material

    return Place(directory, lambda: own_files(*(directory / name for name in material.ALL)))


def tokens(layout: Layout) -> Place:
    """The public half of the token issuer's key, then the key."""
    return Place(layout.tokens, lambda: own_files(layout.jwks, layout.token_key))


def node(layout: Layout) -> Place:
    """The socket of a node's agent."""
    return _served(layout.node_socket)


def faces(paths: WorkloadPaths) -> tuple[Place, ...]:
    """Where a workload's own agent serves it and keeps what it has."""
    from meshpki.agent.files import set as file_set
    from meshpki.agent.renewal import cache

    return (
        _served(paths.socket),
        Place(paths.certificates, lambda: file_set.own_paths(paths.certificates)),
        Place(paths.cache, lambda: own_files(paths.cache / cache.FILE)),
    )


def workload(paths: WorkloadPaths) -> Place:
    """The files of a workload, beside the directories that are its faces."""
    return Place(paths.directory, lambda: own_files(paths.token, paths.status))


def _served(socket: Path) -> Place:
    from meshpki.agent.socket import path as socket_path

    return Place(socket.parent, lambda: socket_path.own_paths(socket))


def _is_log(name: str) -> bool:
    """Whether one of our processes writes a log of that name; one that grew large stands beside it as `.log.1`."""
    process, dot, kind = name.removesuffix(".1").rpartition(".")
    if (dot, kind) != (".", "log"):
        return False
    if process in {"ca", "supervisor", NODE_AGENT}:
        return True
    try:
        return process.startswith("agent-") and bool(account_of(process.removeprefix("agent-")))
    except InvalidValueError:
        return False
