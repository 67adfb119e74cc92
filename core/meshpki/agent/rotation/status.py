"""The status file: how one identity stands, for `meshpki status` and for people, without secrets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from meshpki.agent.rotation.machine import State, health
from meshpki.runtime.logs import redact

if TYPE_CHECKING:
    from collections.abc import Mapping

    from meshpki.agent.rotation.failure import Failure


def as_json(status: Mapping[str, object]) -> bytes:
    """Write a status as every status file has it."""
    return (json.dumps(status, indent=2) + "\n").encode("utf-8")


def fields(state: State, now: float) -> Mapping[str, object]:
    """Give state, spiffe_id, serial (hex), not_after, renew_at, last_failure of one identity. Times: epoch seconds.

    Without a certificate `spiffe_id` and `serial` are empty and `not_after` is 0. `renew_at` is when the CA is asked
    next. `last_failure` is null once a renewal has succeeded; its `since` is when the first failure after the last
    success came.
    """
    held = state.snapshot
    return {
        "state": health(state, now).value,
        "spiffe_id": str(held.spiffe_id) if held else "",
        "serial": f"{held.serial:x}" if held else "",
        "not_after": held.not_after if held else 0,
        "renew_at": int(state.due_at),
        "last_failure": _failure(state.failure, state) if state.failure else None,
    }


def _failure(failure: Failure, state: State) -> Mapping[str, object]:
    return {
        "kind": failure.kind.value,
        "reason": failure.reason,
        "seen": redact(failure.seen),
        "todo": failure.todo,
        "at": int(state.failed_at),
        "since": int(state.failing_since),
    }
