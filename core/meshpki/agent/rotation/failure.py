"""Why a renewal failed: one record that the log, the status file and the rotation share."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """Which of the parties to a renewal failed."""

    TOKEN = "token"
    """The token file: missing, empty, broken, or its token expired. The CA was not asked."""
    NETWORK = "network"
    """The CA could not be reached, was too slow, or was shedding load."""
    VERDICT = "verdict"
    """The CA examined the request and refused it. Asking again changes little; a new token may."""
    ANSWER = "answer"
    """The CA answered with something that must not be served."""
    MACHINE = "machine"
    """This machine: a file that cannot be read, or a fault of the agent itself."""


@dataclass(frozen=True, slots=True)
class Failure:
    """One failed attempt. `seen` and `todo` are sentences for a person, and never hold a token or a key."""

    kind: FailureKind
    reason: str
    """One word that scripts can compare: a token reason, or the CA's own word; else a gRPC status in
    lower case, or a reason of ours."""
    seen: str
    todo: str = ""

    @property
    def denied(self) -> bool:
        """Whether the CA refused, so that only something new is likely to help."""
        return self.kind is FailureKind.VERDICT

    @property
    def waits_for_roots(self) -> bool:
        """Whether other configured roots are a reason to try at once: the CA, or its answer, may be trusted now."""
        return self.kind in {FailureKind.NETWORK, FailureKind.ANSWER, FailureKind.MACHINE}

    @property
    def waits_for_token(self) -> bool:
        """Whether another content of the token file is a reason to try at once."""
        return self.kind in {FailureKind.TOKEN, FailureKind.VERDICT}
