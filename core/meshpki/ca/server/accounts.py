"""On whose account a call waits for its request (ADR 0017)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.ca.peer import Peer
from meshpki.tokens.caller import Caller

if TYPE_CHECKING:
    from collections.abc import Hashable


def account(caller: object) -> Hashable:
    """A pod's, where a token names one, else its service account's.

    Not the credential's: whoever has one can get another as often as he likes.
    """
    match caller:
        case Caller():
            return caller.cluster, caller.service_account, caller.pod.uid if caller.pod else ""
        case Peer():
            return "", caller.service_account, ""
        case _:
            return None
