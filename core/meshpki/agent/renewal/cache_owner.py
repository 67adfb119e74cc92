"""Whose a pod's cache is: what the agent's token says of itself is enough to leave a cache alone, never to believe one.

A volume outlives its pod, and a pod can be given another service account: then what lies there is another workload's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.agent.renewal.token_file import MAX_FILE_BYTES
from meshpki.agent.renewal.token_text import NotATokenError, subject
from meshpki.errors import MachineError
from meshpki.runtime.files import read_capped

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.identity import SpiffeId

ACCOUNT: Final = "system:serviceaccount:"


def subject_in(token_file: Path) -> str | None:
    """Give `sub` of the token in this file, expired or not; empty where it says none, None where there is no token."""
    try:
        return subject(read_capped(token_file, limit=MAX_FILE_BYTES).strip())
    except (MachineError, NotATokenError):
        return None


def speaks_for(said: str | None, spiffe_id: SpiffeId) -> bool:
    """Whether a token with this `sub` can be this identity's. None, no token at hand, contradicts nothing.

    Istio's form is the only one of which a token can be told to be its: of another form, no cache is used.
    """
    match spiffe_id.segments:
        case ("ns", namespace, "sa", account):
            return said is None or said == f"{ACCOUNT}{namespace}:{account}"
        case _:
            return False
