"""A platform that is a directory: its changes write files. For tests of the engine, and as an example for vendors.

It goes through the same hooks as any plugin. `faults` makes single calls fail, so that a test can break what it likes:
`"apply:file.a"`, `"gate:file.a"`, `"undo:file.a"`, `"crash:file.a"` (no error of ours), `"interrupt:file.a"`.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki import plugins
from meshpki.errors import InvalidValueError, MachineError, RefusedError
from meshpki.hooks import (
    API_VERSION,
    CaEndpoint,
    Change,
    ComponentStatus,
    Detection,
    DetectRequest,
    EffectState,
    Evidence,
    Health,
    Mode,
    NotPossible,
    Observation,
    Option,
    OptionKind,
    PlanRequest,
    Platform,
    Projection,
    Propagation,
    SignerOffer,
)
from meshpki.testing.failpoints import kill_here

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from meshpki.hooks import Params, Progress, Signer, WorkloadStatus
    from meshpki.identity import ServiceAccountRef

NAME: Final = "directory"
MARK: Final = "made by meshpki.testing\n"
"""The first line of every file that is ours."""
DEFAULT_FILES: Final = ("a=first", "b=second")


@dataclass
class DirectoryPlatform:
    """The plugin. Its fields stand for the world that a real platform would look at."""

    version: str = "v1.0"
    modes: tuple[Mode, ...] = (Mode.SDS, Mode.FILE_MOUNT)
    faults: set[str] = field(default_factory=set)
    impossible: str = ""
    """When set, `plan_token_projection` answers NotPossible with this reason."""
    calls: list[str] = field(default_factory=list)
    """What was done to the world, for example `apply file.a`."""

    @plugins.hookimpl
    def platform(self) -> Platform:
        """Introduce it."""
        return Platform(
            name=NAME,
            summary="a directory with files in it, for tests",
            api_version=API_VERSION,
            options=(
                Option("file", OptionKind.LIST, "name=content of a file", DEFAULT_FILES, "NAME=CONTENT"),
                Option("directory", OptionKind.TEXT, "name of the directory in the state directory", "files"),
            ),
            effects={
                "directory.directory": lambda state_dir, params: _Directory(self, state_dir, params),
                "directory.file": lambda state_dir, params: _File(self, state_dir, params),
            },
        )

    @plugins.hookimpl
    def detect(self, request: DetectRequest) -> Detection:  # noqa: ARG002 - vendors see here what they may use
        """Say what there is."""
        evidence = (Evidence("which version?", self.version, "the field of that name"),)
        return Detection(self.version, NAME, self.modes, evidence, facts={"faulty": bool(self.impossible)})

    @plugins.hookimpl
    def plan_token_projection(self, request: PlanRequest) -> Projection | NotPossible:
        """Plan the directory."""
        if self.impossible:
            return NotPossible(self.impossible, ("use another directory",))
        directory = request.options["directory"]
        return Projection((_change("root", "directory.directory", f"directory {directory}", {"path": directory}),))

    @plugins.hookimpl
    def signer(self, request: PlanRequest) -> SignerOffer | NotPossible:  # noqa: ARG002
        """Offer a signer that cannot be opened."""
        return SignerOffer((), _no_signer)

    @plugins.hookimpl
    def propagate(self, request: PlanRequest) -> Propagation | NotPossible:
        """Plan the files."""
        given = request.options["file"]
        assert isinstance(given, tuple)
        files = dict(item.split("=", 1) for item in given)
        changes = tuple(
            _change(
                f"file.{name}",
                "directory.file",
                f"file {name}",
                {"path": f"{request.options['directory']}/{name}", "content": content},
            )
            for name, content in files.items()
        )
        return Propagation(changes, DirectoryProbe(request.state_dir, changes))


def _change(identifier: str, kind: str, title: str, params: Params) -> Change:
    return Change(
        id=identifier,
        kind=kind,
        title=title,
        why="the test wants it",
        params={"id": identifier, **params},
        diff=(f"+ {title}",),
        undo="what was there before comes back",
    )


def _no_signer() -> Signer:
    raise RefusedError("a directory signs nothing")


class _Place:
    """What both kinds of change share: their place, and the faults asked for."""

    def __init__(self, platform: DirectoryPlatform, state_dir: Path, params: Params) -> None:
        path, identifier = params.get("path"), params.get("id")
        if not isinstance(path, str) or not isinstance(identifier, str) or ".." in path or path.startswith("/"):
            raise InvalidValueError(f"path {path!r}", wanted="a path below the state directory")
        self.platform = platform
        self.id = identifier
        self.path = state_dir / path
        self.content = MARK + str(params.get("content", ""))

    def _do(self, deed: str) -> None:
        """Note a deed, and fail it if that was asked for."""
        self.platform.calls.append(f"{deed} {self.id}")
        if f"{deed}:{self.id}" in self.platform.faults:
            raise MachineError(f"{deed} of {self.id} fails, as the test wants it", todo="take the fault away")
        if deed == "apply" and f"crash:{self.id}" in self.platform.faults:
            raise ZeroDivisionError("as the test wants it")
        if deed == "apply" and f"interrupt:{self.id}" in self.platform.faults:
            raise KeyboardInterrupt

    def gate(self, progress: Progress) -> None:
        """Wait for nothing."""
        progress(f"look at {self.path.name}")
        self._do("gate")


class _Directory(_Place):
    """A directory. One that is there already is fine, and stays."""

    def observe(self) -> Observation:
        if self.path.is_dir():
            return Observation(EffectState.DONE)
        return (
            Observation(EffectState.FOREIGN, f"{self.path}") if self.path.exists() else Observation(EffectState.ABSENT)
        )

    def undo_record(self) -> Params:
        return {"existed": self.path.is_dir()}

    def apply(self, progress: Progress) -> None:
        progress(f"make {self.path.name}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._do("apply")

    def undo(self, record: Params, progress: Progress) -> None:
        self._do("undo")
        progress(f"remove {self.path.name}")
        if not record["existed"]:
            with contextlib.suppress(FileNotFoundError, OSError):
                self.path.rmdir()


class _File(_Place):
    """A file of ours. Written in two parts, so that a kill between them leaves half of it."""

    def observe(self) -> Observation:
        if not self.path.exists():
            return Observation(EffectState.ABSENT)
        found = self.path.read_text()
        if found == self.content:
            return Observation(EffectState.DONE)
        if not MARK.startswith(found[: len(MARK)]):
            return Observation(EffectState.FOREIGN, f"{self.path} is not ours")
        return Observation(EffectState.DIFFERENT, "other content")

    def undo_record(self) -> Params:
        return {"content": self.path.read_text()} if self.path.exists() else {}

    def apply(self, progress: Progress) -> None:
        progress(f"write {self.path.name}")
        with self.path.open("w") as file:
            file.write(self.content[: len(self.content) // 2])
            file.flush()
            kill_here(f"{self.id}.half")
            self._do("apply")
            file.write(self.content[len(self.content) // 2 :])

    def undo(self, record: Params, progress: Progress) -> None:
        self._do("undo")
        progress(f"put back {self.path.name}")
        if isinstance(record.get("content"), str):
            self.path.write_text(str(record["content"]))
        else:
            self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class DirectoryProbe:
    """Examines the files; there is no CA."""

    state_dir: Path
    changes: tuple[Change, ...]
    audience: str = "istio-ca"
    trust_domain: str = "test.local"

    def ca(self) -> CaEndpoint:
        """Refuse: there is none."""
        raise RefusedError("a directory has no CA")

    def mint(self, account: ServiceAccountRef, *, audience: str, lifetime_seconds: int) -> str:
        """Refuse: nobody issues tokens here."""
        raise RefusedError(f"no token for {account.namespace}/{account.name} ({audience}, {lifetime_seconds} s)")

    def components(self) -> tuple[ComponentStatus, ...]:
        """Tell of each file whether it is there."""
        return tuple(
            ComponentStatus(change.id, Health.RUNNING if self._is_there(change.params) else Health.STOPPED)
            for change in self.changes
        )

    def workloads(self) -> tuple[WorkloadStatus, ...]:
        """Nobody works here."""
        return ()

    def _is_there(self, params: Mapping[str, object]) -> bool:
        return (self.state_dir / str(params["path"])).exists()


def plugin_set(platform: DirectoryPlatform | None = None) -> plugins.PluginSet:
    """Return a set of plugins with this platform alone."""
    return plugins.of_objects({NAME: platform or DirectoryPlatform()}, origin="meshpki-testing 1.0")
