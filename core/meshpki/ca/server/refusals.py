"""A call that gets nothing: counted, noted in the audit log, and answered with a status that says whose fault it is."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import grpc

from meshpki.ca.audit.entries import refused_record
from meshpki.ca.server.calls.methods import Call, CallRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.ca.audit.entries import Requester
    from meshpki.ca.audit.log import AuditLog
    from meshpki.errors import MeshpkiError, UnavailableError

_LOG = logging.getLogger(__name__)


class Refusals:
    """Where one method's refusals go. Safe for threads."""

    def __init__(self, audit: AuditLog, count: Callable[[CallRefusedError], None], *, detail: str = "") -> None:
        """`count` adds to the metrics; `detail` names the method in the log, where it is not CreateCertificate."""
        self._audit = audit
        self._count = count
        self._detail = detail

    def note(
        self, call: Call, refusal: CallRefusedError, *, who: Requester | None = None, cluster: str = ""
    ) -> CallRefusedError:
        """Count and record it, within the budget of the audit log; give it back to be raised."""
        self._count(refusal)
        record = refused_record(call, refusal.reason, who=who, cluster=cluster, detail=self._detail)
        self._audit.note(record, verified=who is not None, now=call.received_at)
        if _LOG.isEnabledFor(logging.DEBUG):
            _LOG.debug("refused", extra={"call": call.id, "reason": refusal.reason, "peer": call.peer})
        return refusal


def refusal(status: grpc.StatusCode, reason: str, error: MeshpkiError) -> CallRefusedError:
    """The answer to a caller whose request was examined."""
    return CallRefusedError(status, str(reason), str(error))


def unavailable(reason: str, sentence: str, error: UnavailableError) -> CallRefusedError:
    """The answer where something of ours is missing. The cause may name our files: it is for our log alone."""
    _LOG.debug("unavailable", extra={"reason": reason, "error": str(error)})
    return CallRefusedError(grpc.StatusCode.UNAVAILABLE, reason, f"{sentence}; try again")
