"""Where everything of a local installation stands: every path below the state directory, in one place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.identity import ServiceAccountRef
from meshpki.provision.commands import command

if TYPE_CHECKING:
    from pathlib import Path

MAX_SOCKET_PATH: Final = 106
"""Bytes of a socket's path: sun_path of unix(7) less its closing zero, and one less, for an agent binds it under a
passing name that is longer by one (`agent.socket_path`)."""


@dataclass(frozen=True, slots=True)
class WorkloadPaths:
    """The files of one workload, below `<state>/workloads/<namespace>.<service account>`."""

    directory: Path

    @property
    def token(self) -> Path:
        """The service-account token, rewritten in place by rename."""
        return self.directory / "token"

    @property
    def sds(self) -> Path:
        """The directory (0750) whose only content is the socket."""
        return self.directory / "sds"

    @property
    def socket(self) -> Path:
        """Where the agent serves Envoy's secret discovery."""
        return self.sds / "sds.sock"

    @property
    def certificates(self) -> Path:
        """Where the agent writes key, chain and roots as one atomic set."""
        return self.directory / "certs"

    @property
    def cache(self) -> Path:
        """What a restarted agent goes on with while the CA is away."""
        return self.directory / "cache"

    @property
    def status(self) -> Path:
        """What the agent says about itself."""
        return self.directory / "status.json"


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one installation. `state` is absolute."""

    state: Path

    def command(self, name: str) -> str:
        """`meshpki provision` or `meshpki run` for this installation, in backquotes."""
        return command(f"{name} --platform local", self.state)

    @property
    def ca(self) -> Path:
        """The CA's material, and nothing else."""
        return self.state / "ca"

    @property
    def root_certificate(self) -> Path:
        """The root, which agents and verifiers trust."""
        return self.ca / "root-cert.pem"

    @property
    def issuer_certificate(self) -> Path:
        """The intermediate that signs."""
        return self.ca / "issuer-cert.pem"

    @property
    def issuer_key(self) -> Path:
        """The intermediate's key."""
        return self.ca / "issuer-key.pem"

    @property
    def ca_config(self) -> Path:
        """The CA server's configuration."""
        return self.state / "ca.yaml"

    @property
    def audit(self) -> Path:
        """The directory of the CA's issuance log."""
        return self.state / "audit"

    @property
    def issuance_log(self) -> Path:
        """What the CA writes down before it answers."""
        return self.audit / "issuance.jsonl"

    @property
    def tokens(self) -> Path:
        """The token issuer's key and its public half."""
        return self.state / "tokens"

    @property
    def token_key(self) -> Path:
        """The key that signs service-account tokens."""
        return self.tokens / "issuer-key.pem"

    @property
    def jwks(self) -> Path:
        """The public half, as the CA reads it."""
        return self.tokens / "jwks.json"

    @property
    def installation(self) -> Path:
        """What the supervisor is to run."""
        return self.state / "local.json"

    @property
    def run(self) -> Path:
        """What the supervisor knows while it runs."""
        return self.state / "run"

    @property
    def lock(self) -> Path:
        """Locked by the one supervisor for as long as it lives."""
        return self.run / "supervisor.lock"

    @property
    def run_file(self) -> Path:
        """The supervisor's word on itself and its children."""
        return self.run / "supervisor.json"

    @property
    def logs(self) -> Path:
        """One log per process."""
        return self.state / "logs"

    def log(self, name: str) -> Path:
        """The log of the process of that name."""
        return self.logs / f"{name}.log"

    @property
    def node(self) -> Path:
        """The directory (0750) whose only content is the socket of the node's agent, where there is one."""
        return self.state / "node"

    @property
    def node_socket(self) -> Path:
        """Where the node's agent serves every workload."""
        return self.node / "sds.sock"

    @property
    def workloads(self) -> Path:
        """One directory per workload."""
        return self.state / "workloads"

    def workload(self, account: ServiceAccountRef) -> WorkloadPaths:
        """The paths of one workload. A namespace holds no dot, so the directory's name reads only one way."""
        return WorkloadPaths(self.workloads / directory_name(account))


def directory_name(account: ServiceAccountRef) -> str:
    """`<namespace>.<service account>`."""
    return f"{account.namespace}.{account.name}"


def account_of(name: str) -> ServiceAccountRef:
    """Read `directory_name` back. Raises InvalidValueError for a name that we cannot have given."""
    return ServiceAccountRef.parse(name.replace(".", "/", 1))


NODE_AGENT: Final = "agent-node"
"""What the node's agent and its log are called. No workload's is: its name has a dot in it."""


def agent_name(account: ServiceAccountRef) -> str:
    """What an agent's process and its log are called."""
    return f"agent-{directory_name(account)}"
