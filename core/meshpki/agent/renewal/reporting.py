"""From what was raised to the failure that is recorded, and from there to one log line."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from meshpki.agent.renewal.ca_client import CaRefusedError, CaUnavailableError
from meshpki.agent.renewal.token_file import TokenFileError
from meshpki.agent.rotation.acceptance import AnswerError
from meshpki.agent.rotation.failure import Failure, FailureKind
from meshpki.errors import MeshpkiError
from meshpki.runtime.open_files import OpenFilesError
from meshpki.runtime.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.agent.rotation.machine import Report
    from meshpki.health import Health

log = logging.getLogger(__name__)

_HEADLINES = {
    FailureKind.TOKEN: "no renewal: the token is at fault, the CA was not asked",
    FailureKind.NETWORK: "no renewal: the CA gave no answer",
    FailureKind.VERDICT: "no renewal: the CA refused",
    FailureKind.ANSWER: "no renewal: the CA's answer is not fit to be served",
    FailureKind.MACHINE: "no renewal: this machine is at fault",
}


def failure_of(error: Exception) -> Failure:
    """Say whose fault it was: the token's, the network's, the CA's verdict, its answer, or this machine's."""
    match error:
        case TokenFileError():
            kind, reason = FailureKind.TOKEN, error.reason.value
        case CaRefusedError():
            kind, reason = FailureKind.VERDICT, error.reason
        case CaUnavailableError():
            kind, reason = FailureKind.NETWORK, error.reason or error.status.lower()
        case AnswerError():
            kind, reason = FailureKind.ANSWER, error.reason
        case OpenFilesError():
            kind, reason = FailureKind.MACHINE, "open_files"
        case MeshpkiError():
            kind, reason = FailureKind.MACHINE, "file"
        case _:  # only the kind of an error that we did not foresee: its text might hold anything
            return Failure(FailureKind.MACHINE, "fault", f"a fault of the agent: {type(error).__name__}", "report it")
    wanted = f"; wanted: {error.wanted}" if error.wanted else ""
    return Failure(kind, reason, error.seen + wanted, error.todo)


def report(
    action: Report,
    health: Health,
    now: float,
    many: Mapping[FailureKind, Repeats] | None = None,
    *,
    whose: str = "",
) -> None:
    """Log a failure: loud when it is new, and again and again only where that tells something.

    A token that is missing or expired is said once: the CA is not asked meanwhile, so nothing new is learned.
    `many` says it where there are many identities: a CA that is away is away for a thousand at once, and anybody may
    have tokens refused. `whose`: the SPIFFE ID of what was accepted before, by the CA's word; a line of many would else
    be nobody's. A refusal of that is another matter than of a stranger's token, and not lost among those.
    """
    failure = action.failure
    extra = {
        **({"spiffe_id": whose} if whose else {}),
        "fault": failure.kind.value,
        "reason": failure.reason,
        "seen": failure.seen,
        "todo": failure.todo,
        "state": health.value,
        "retry_in_seconds": round(action.retry_at - now, 1),
        "failing_for_seconds": round(max(0.0, now - action.since)),
    }
    if action.repeated and failure.kind is FailureKind.TOKEN:
        log.debug(_HEADLINES[failure.kind], extra=extra)
    elif many is None:
        log.warning(_HEADLINES[failure.kind], extra=extra)
    else:
        accepted = ", accepted before" if whose and failure.denied else ""
        many[failure.kind].say(f"{failure.reason}{accepted}", extra)


def reports_of_many() -> Mapping[FailureKind, Repeats]:
    """What says in node mode that renewals fail: of each kind and reason one line a minute, and how many there were."""
    return {kind: Repeats(log, headline) for kind, headline in _HEADLINES.items()}
