"""How much one node's agent takes upon itself, whoever asks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """What one node's agent takes upon itself."""

    identities: int = 2048
    """Accepted tokens. For a while a workload has two: the one it came with, and the fresh one it came back with."""
    waiting: int = 1024
    """Tokens that the CA has not accepted yet. Counted apart, so that a flood of forged ones displaces no workload.

    Where there is no place for one more, one of them makes room, by lot (ADR 0020).
    """
    waiting_streams: int = 4096
    """Of all those tokens together. Who waits holds some 100 KiB of the agent (measured), if it sends what it may."""
    streams: int = 64
    """Of one token. Envoy opens one for each secret that it names."""
    remembered: int = 8192
    """Tokens that are gone, and that are not asked about again before `refusal_seconds` are over."""
    refusal_seconds: float = 10.0
    grace_seconds: float = 30.0
    """How long an accepted token without a stream is kept, for an Envoy that restarts."""
