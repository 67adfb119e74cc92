"""The one root of errors: what was seen, what was wanted, and what to do next."""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What a script can tell from the exit status of `meshpki` (DESIGN section 6)."""

    DONE = 0
    ERROR = 1
    USAGE = 2
    OPERATOR_NEEDED = 3
    """Changes are pending, or the operator's word is needed."""
    BUDGET_BREACHED = 4
    WAITING_AT_GATE = 5


class MeshpkiError(Exception):
    """Every error of ours: three sentences a person can act on, and the evidence.

    `seen` says what was met, `wanted` what would have been right, `todo` the next step to take. None of the
    three may hold a token, a key or any part of one. Raise where the fact is known; translate once, at the
    boundary; keep the cause with `raise ... from`.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.ERROR

    def __init__(self, seen: str, *, wanted: str = "", todo: str = "", evidence: tuple[str, ...] = ()) -> None:
        super().__init__(seen)
        self.seen = seen
        self.wanted = wanted
        self.todo = todo
        self.evidence = evidence

    def __str__(self) -> str:
        parts = [self.seen]
        if self.wanted:
            parts.append(f"wanted: {self.wanted}")
        if self.todo:
            parts.append(f"to do: {self.todo}")
        return "; ".join(parts)


class WouldWaitError(MeshpkiError):
    """What was asked takes waiting for somebody, and whoever asked said that it must not. Told to nobody."""

    def __init__(self) -> None:
        super().__init__("the answer takes waiting for somebody", todo="ask again where waiting is allowed")


class UsageError(MeshpkiError):
    """The command line or a configuration file says something that cannot be meant."""

    exit_code = ExitCode.USAGE


class InvalidValueError(MeshpkiError, ValueError):
    """A value breaks the rules of its kind: a SPIFFE ID, a namespace, a duration."""


class MachineError(MeshpkiError):
    """This machine refuses: a full disk, a port in use, a directory of somebody else, a missing program."""


class UnavailableError(MeshpkiError):
    """Another party is away, slow or shedding load. The same request may succeed later, unchanged."""


class RefusedError(MeshpkiError):
    """A credential or a request was examined and refused. The same request will be refused again."""


class PluginError(MeshpkiError):
    """A plugin is broken, missing or not what it says it is."""


class OperatorNeededError(MeshpkiError):
    """Nothing failed, but going on takes the operator's word, or the world moved since the plan was made."""

    exit_code = ExitCode.OPERATOR_NEEDED


class IntegrityError(MeshpkiError):
    """Something that must never change was changed: an audit log, a journal, a key pair that does not match."""
