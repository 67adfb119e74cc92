"""How many connections an agent's socket takes, so that it never runs out of files for renewals."""

from __future__ import annotations

import logging
from typing import Final

from meshpki.runtime.open_files import allow_all

log = logging.getLogger(__name__)

POD: Final = 512
"""Of one workload: its Envoy has one or a few for each worker, a SPIFFE client one."""
RESERVED: Final = 64
"""For what the agent opens beside: roots, tokens, status, files, health and metrics."""
PER_CALL: Final = 4
"""For each call to the CA that may be under way."""


def for_node(identities: int) -> int:
    """Wanted for so many accepted tokens: an Envoy of node mode has a connection for each of its two secrets."""
    return max(POD, 2 * identities)


def most(wanted: int, *, calls_at_once: int) -> int:
    """Raise the limit of open files as far as it goes, and say how many connections the socket may have then."""
    return affordable(wanted, allow_all(), calls_at_once)


def affordable(wanted: int, files: int, calls_at_once: int) -> int:
    """How many connections a process may take that may have so many files open. The rest is for everything else."""
    share = files - min(RESERVED + PER_CALL * calls_at_once, files // 2)
    if share >= wanted:
        return wanted
    log.warning(
        "fewer connections than workloads may want: each takes an open file",
        extra={"connections": share, "wanted": wanted, "open_files": files, "todo": "raise `ulimit -n`"},
    )
    return share
