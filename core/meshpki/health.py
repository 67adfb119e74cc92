"""How a component or a workload's identity stands, in one word. Apart, for who needs just this."""

from __future__ import annotations

from enum import StrEnum


class Health(StrEnum):
    """Of a component or a workload's identity. Workloads use kubelet's words for certificates."""

    RUNNING = "running"
    STOPPED = "stopped"
    FRESH = "fresh"
    OVERDUE = "overdue"
    EXPIRED = "expired"
    FAILED = "failed"
    DENIED = "denied"
