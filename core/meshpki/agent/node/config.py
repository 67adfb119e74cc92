"""What a node's agent is told: where its CA is, where its socket is, and how much it takes upon itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from meshpki.agent.node.limits import Limits
from meshpki.agent.node.token import ISTIO_HEADER, check_header
from meshpki.agent.process.config import CALL_SECONDS, DAY_SECONDS, check_call_seconds, check_shared
from meshpki.agent.rotation.key_request import KeyType
from meshpki.agent.socket.server import PATIENCE_SECONDS
from meshpki.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

AT_ONCE: Final = 16
"""Calls to the CA at a time. A CA of ours takes 64 in flight by default, and serves other nodes too."""
MARGIN_SECONDS: Final = 5.0
"""By which a call on the socket waits longer than one to the CA, for its turn there and the answer's way back."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's agent. Raises UsageError when it cannot be meant."""

    ca_address: str
    """`HOST:PORT`."""
    ca_roots: Path
    """PEM file: see AgentConfig."""
    ca_server_name: str
    socket: Path
    token_header: str = ISTIO_HEADER
    cluster: str = ""
    ttl_seconds: int = DAY_SECONDS
    key_type: KeyType = KeyType.EC_P256
    status_file: Path | None = None
    call_seconds: float = CALL_SECONDS
    """How long one call to the CA may take, dialling included."""
    http: str = ""
    """`HOST:PORT` for health and metrics, or empty."""
    cache: Path | None = None
    """Directory that keeps over a restart what the CA gave for each token, or None: nothing is written."""
    limits: Limits = field(default_factory=Limits)
    at_once: int = AT_ONCE

    @property
    def patience_seconds(self) -> float:
        """How long calls on the socket wait for the CA that do not wait without end: never less than one call takes."""
        return max(PATIENCE_SECONDS, self.call_seconds + MARGIN_SECONDS)

    def __post_init__(self) -> None:
        """Refuse what would only fail later, and less clearly."""
        check_shared(self.ca_address, self.ca_server_name, self.ttl_seconds, self.http)
        check_call_seconds(self.call_seconds)
        check_header(self.token_header)
        if not 0 < self.at_once <= 1024:
            raise UsageError(f"{self.at_once} calls to the CA at a time", wanted="1 to 1024")
        if not 0 < self.limits.identities <= 100_000:
            raise UsageError(f"{self.limits.identities} identities at most", wanted="1 to 100000")
