"""The public contract with plugins: four hooks, the one that names a platform, and the records they exchange.

A plugin is a module or object whose functions carry `meshpki.plugins.hookimpl` and are named as below. Hooks take
narrow, typed, frozen values and return records: they decide, the engine acts. What a hook may do is said in its
docstring; what is not said there, it may not do. This module imports nothing but types.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol

from meshpki.health import Health as Health  # noqa: PLC0414 - a part of the contract

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from meshpki.identity import ServiceAccountRef

    Value: TypeAlias = str | int | bool | tuple[str, ...]
    """What an option, a parameter or a fact may be: what JSON can say without nesting."""
    Params: TypeAlias = Mapping[str, Value]
    Progress: TypeAlias = Callable[[str], None]
    """Called with one short line whenever something worth saying happens. Never with a secret."""

API_VERSION: Final = 1
"""Version of this contract. A plugin states in its `Platform` record the version that it was written for."""


class Mode(StrEnum):
    """The ladder of trust (DESIGN section 2), highest rung first."""

    POD_CERTIFICATE = "pod-certificate"
    SDS = "sds"
    FILE_MOUNT = "file-mount"


class OptionKind(StrEnum):
    """How an option is written on the command line: `--name TEXT`, a number, a bare flag, or repeated."""

    TEXT = "text"
    INTEGER = "integer"
    FLAG = "flag"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a platform, offered as `--<name>` by `meshpki provision --platform <platform>`."""

    name: str
    """Lower case, words joined by `-`."""
    kind: OptionKind
    help: str
    default: Value
    metavar: str = ""


@dataclass(frozen=True, slots=True)
class Platform:
    """Answer of the hook `platform`: who this plugin is, and what its changes are made of."""

    name: str
    """The name of the entry point that brought the plugin: lower case, words joined by `-`."""
    summary: str
    api_version: int
    options: tuple[Option, ...] = ()
    effects: Mapping[str, EffectFactory] = field(default_factory=dict)
    """For each kind of change that this platform plans, how to make, observe and undo it."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was found out, and how: a question, its answer, and the source that gave it."""

    question: str
    answer: str
    source: str


@dataclass(frozen=True, slots=True)
class ClusterRef:
    """Which cluster, and how it is reached: what `meshpki.kube.kubeconfig.load` takes. No secret is in it."""

    kubeconfig: Path | None
    """None: what the variable KUBECONFIG lists, or ~/.kube/config."""
    context: str
    allow_exec: tuple[Path, ...] = ()
    """The credential programs that the operator allows."""


@dataclass(frozen=True, slots=True)
class DetectRequest:
    """What `detect` may know: where this installation's state lives, the operator's options, and which cluster."""

    state_dir: Path
    options: Params
    cluster: ClusterSeen | None = None
    """None where the operator named no cluster, as for a platform that is none."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Answer of the hook `detect`. All of it enters the plan's digest, so nothing in it may be volatile."""

    version: str
    """The platform's version as it names itself: for a cluster the gitVersion."""
    distribution: str
    modes: tuple[Mode, ...]
    """The rungs that the evidence allows, best first; empty where it allows none."""
    evidence: tuple[Evidence, ...] = ()
    facts: Params = field(default_factory=dict)
    emulated_version: str = ""
    node_versions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """A cluster, and what it proved by itself before the platform was asked."""

    ref: ClusterRef
    found: Detection


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """What the planning hooks may know. `mode` is the rung that the engine and the operator settled on."""

    state_dir: Path
    options: Params
    detection: Detection
    mode: Mode


@dataclass(frozen=True, slots=True)
class Change:
    """One planned change, as pure data: it is shown, saved, digested and journalled. No secret may be in it."""

    id: str
    """Stable and unique in its plan, for example `ca.material`.

    One id stands for one place in the world: the same id with other parameters brings that place up to date; what
    acts somewhere else gets another id, and the engine undoes the old one because no plan names it any more.
    """
    kind: str
    """A key of the platform's `effects`."""
    title: str
    why: str
    params: Params
    diff: tuple[str, ...] = ()
    """Lines a reviewer reads: `+ added`, `- removed`, `~ changed`."""
    precondition: str = ""
    undo: str = ""
    """In words: what taking it back means."""
    gate: str = ""
    """In words: what has to hold afterwards before the next change begins."""


@dataclass(frozen=True, slots=True)
class Projection:
    """Answer of `plan_token_projection`: in this order, and the platform issues trustworthy tokens."""

    changes: tuple[Change, ...]


@dataclass(frozen=True, slots=True)
class NotPossible:
    """Answer of a planning hook that cannot be fulfilled: why not, and the operator's ways out."""

    reason: str
    ways_out: tuple[str, ...]


class Signer(Protocol):
    """What signs certificates. Only `meshpki.ca.issue` calls `sign`."""

    @property
    def chain(self) -> tuple[bytes, ...]:
        """DER certificates: the issuing one first, each signed by the next, the root last. Never empty."""
        ...

    def sign(self, tbs: bytes) -> bytes:
        """Sign a DER TBSCertificate; return the DER signature value for the issuing certificate's key.

        ECDSA with SHA-256 for P-256, with SHA-384 for P-384; RSASSA-PKCS1-v1_5 with SHA-256 for RSA. Raises
        UnavailableError when the key cannot be reached now. May block; is called from several threads at once.
        """
        ...


@dataclass(frozen=True, slots=True)
class SignerOffer:
    """Answer of the hook `signer`: the changes that set it up, and how a CA server opens it afterwards."""

    changes: tuple[Change, ...]
    open: Callable[[], Signer]


class EffectState(StrEnum):
    """How the world stands with regard to one change."""

    ABSENT = "absent"
    """Not made yet."""
    DONE = "done"
    DIFFERENT = "different"
    """Made by us, but not as planned now: `apply` will bring it there."""
    FOREIGN = "foreign"
    """Something that we did not make stands in the way: the engine refuses."""
    DAMAGED = "damaged"
    """Made by us, and not whole or not safe any more, so that `apply` must not go on with it: the engine refuses."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What `Effect.observe` saw."""

    state: EffectState
    detail: str = ""


class Effect(Protocol):
    """One change made real. All of it is idempotent: the process may be killed between any two instructions."""

    def observe(self) -> Observation:
        """Look, change nothing."""
        ...

    def undo_record(self) -> Params:
        """What `undo` needs to bring back the world as it stands now. Durable in the journal before `apply` is called.

        Without secrets: what must be kept of a key is kept beside it, and the record says where. Asked once per
        change, however often the run is broken off and resumed before the change is done. `deprovision` gets the
        record of the first `apply` under this id, the undoing of a failed update gets that update's own.
        """
        ...

    def apply(self, progress: Progress) -> None:
        """Make the change, all or nothing. Raises MeshpkiError."""
        ...

    def gate(self, progress: Progress) -> None:
        """Return once the change has proven healthy; raise MeshpkiError when it has not within its own bound.

        Called after `apply`, and again after a resumed run that finds the change made but not yet proven.
        """
        ...

    def undo(self, record: Params, progress: Progress) -> None:
        """Take back what `apply` made, whole or cut short, and nothing else. Nothing left to take back is no error."""
        ...


class EffectFactory(Protocol):
    """Builds an effect from a change's parameters, as they stand in a plan or a journal."""

    def __call__(self, state_dir: Path, params: Params) -> Effect:
        """Raise MeshpkiError for parameters that make no sense; touch nothing. Called at plan time too."""
        ...


@dataclass(frozen=True, slots=True)
class CaEndpoint:
    """Where a CA listens, the name its certificate must carry, and the roots (PEM) it must chain to."""

    address: str
    server_name: str
    roots_pem: bytes


@dataclass(frozen=True, slots=True)
class ComponentStatus:
    """One process or controller of an installation."""

    name: str
    health: Health
    detail: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadStatus:
    """One workload's identity as its agent serves it. `not_after` is epoch seconds, 0 when there is none."""

    account: ServiceAccountRef
    health: Health
    spiffe_id: str = ""
    not_after: int = 0
    sds_socket: str = ""
    directory: str = ""
    detail: str = ""


class Probe(Protocol):
    """What `verify` and `status` need to examine an installation from outside. Reads only; mints throw-aways."""

    @property
    def audience(self) -> str:
        """The audience that this installation's CA accepts."""
        ...

    @property
    def trust_domain(self) -> str:
        """The trust domain that it issues for."""
        ...

    def ca(self) -> CaEndpoint:
        """Where the CA is. Raises MeshpkiError when there is none yet."""
        ...

    def mint(self, account: ServiceAccountRef, *, audience: str, lifetime_seconds: int) -> str:
        """Ask the platform for a token of that account. The caller never stores, logs or shows it.

        A negative lifetime asks for a token that expired that many seconds ago. Raises RefusedError where the
        platform cannot make such a token (no API server can): `verify` then says that it skipped that check.
        """
        ...

    def components(self) -> Sequence[ComponentStatus]:
        """Every process or controller that should be running, in a fixed order."""
        ...

    def workloads(self) -> Sequence[WorkloadStatus]:
        """Every workload that should have an identity, in a fixed order."""
        ...


@dataclass(frozen=True, slots=True)
class Propagation:
    """Answer of the hook `propagate`: how keys and roots reach workloads in a mode, and how to examine it."""

    changes: tuple[Change, ...]
    probe: Probe


def platform() -> Platform:
    """Who are you? Asked once, when the plugin is registered; a plugin without it offers no platform.

    May read nothing and import nothing heavy: it runs for every `meshpki` command that lists platforms.
    Since API version 1.
    """
    raise NotImplementedError


def detect(request: DetectRequest) -> Detection:
    """What is this cluster (or machine)? Asked at the start of `provision`, `apply` and `detect`.

    May look, over the network too, and may mint throw-away tokens; changes nothing that lasts. Must tell "could
    not find out" (raise UnavailableError) from "no" (leave the mode out and say so in the evidence).

    Where `request.cluster` is given, the answer adds to what that cluster proved: all of its evidence is in the answer,
    and more; a mode that it did not prove is not. The platform may leave modes out, and say why in its evidence.
    Since API version 1.
    """
    raise NotImplementedError


def plan_token_projection(request: PlanRequest) -> Projection | NotPossible:
    """How do we make it issue trustworthy tokens? Asked after `detect`, before anything is changed.

    May look; changes nothing. The same request gives the same answer. Since API version 1.
    """
    raise NotImplementedError


def signer(request: PlanRequest) -> SignerOffer | NotPossible:
    """What signs? Asked at plan time for its changes, and by a CA server for `open`.

    May look; changes nothing and reads no private key before `open` is called. Since API version 1.
    """
    raise NotImplementedError


def propagate(request: PlanRequest) -> Propagation | NotPossible:
    """How do keys and roots reach workloads in this mode? Asked at plan time, by `verify` and by `status`.

    May look; changes nothing. The same request gives the same changes. Since API version 1.
    """
    raise NotImplementedError


def run(state_dir: Path) -> int:
    """Stay in the foreground and keep a provisioned installation running, until a signal or the end of its terminal.

    Only platforms that are their own process supervisor have it (`meshpki run --platform <name>`); returns the exit
    status. Since API version 1.
    """
    raise NotImplementedError


HOOKS: Final = (platform, detect, plan_token_projection, signer, propagate, run)
"""Every hook there is, in the order in which a reader meets them."""
