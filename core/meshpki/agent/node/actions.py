"""Where a node's tokens stand, and what is done to their streams: the words between the table and its shell."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NewType, TypeAlias

TokenKey = NewType("TokenKey", bytes)
"""SHA-256 of a token. It tells one token from another, and gives none away."""


class Phase(StrEnum):
    """Where a token stands. A token without an entry is one that we know nothing of: it is gone, or never was."""

    WAITING = "waiting"
    """The CA has not accepted this token yet: nothing is served, and its streams wait."""
    SERVING = "serving"
    """The CA accepted this very token."""
    RECONNECTING = "reconnecting"
    """Accepted once, but it brought no further certificate. What is held is served while its streams come back.

    Either it is spent, or the CA has refused it since: then it is tried again, for a verdict can be wrong.
    """


class Why(StrEnum):
    """Why a stream is turned away."""

    EXPIRED = "expired"
    DENIED = "denied"
    """The CA refused this very token."""
    STREAMS = "streams"
    """The token has as many streams as one may have."""
    FULL = "full"
    """The node has as many accepted tokens as it may have."""
    CROWDED = "crowded"
    """As many wait as may wait, and the lot fell on this one, or all of them are with the CA."""


@dataclass(frozen=True, slots=True)
class Admit:
    """Serve these streams what is held for this token. The only action that gives anything to a stream."""

    key: TokenKey
    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """Ask the CA for a certificate with this token, and renew it."""

    key: TokenKey


@dataclass(frozen=True, slots=True)
class Halt:
    """Send this token no more; go on serving what is held."""

    key: TokenKey


@dataclass(frozen=True, slots=True)
class Stop:
    """Forget token, key and certificate."""

    key: TokenKey


@dataclass(frozen=True, slots=True)
class AskBack:
    """End these streams with a clean status: their clients come back, each with what its token file holds then."""

    streams: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TurnAway:
    """End these streams, which were never admitted, with a refusal."""

    streams: tuple[int, ...]
    why: Why


Action: TypeAlias = Admit | Start | Halt | Stop | AskBack | TurnAway
