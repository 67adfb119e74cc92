"""The configuration of a CA server: one YAML file, read strictly, every path relative to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from meshpki.ca.config_clusters import ClusterSettings
from meshpki.ca.config_converter import structure
from meshpki.ca.config_values import DAY, HostPort, Seconds
from meshpki.ca.profile import Profile
from meshpki.errors import InvalidValueError
from meshpki.identity import TrustDomain
from meshpki.runtime.files import read_capped
from meshpki.runtime.strict_yaml import load_yaml

MAX_CONFIG_BYTES: Final = 256 * 1024
DEFAULT_BACKDATE: Final = Seconds(120)


@dataclass(frozen=True, slots=True)
class IssuerFiles:
    """The authority that signs: its certificate with those above it, its private key, and the root's certificate."""

    certificate: Path
    key: Path
    root: Path | None = None
    """Left out when the root stands at the end of `certificate` already."""


@dataclass(frozen=True, slots=True)
class ProfileSettings:
    """See `meshpki.ca.profile.Profile`."""

    default_ttl: Seconds = DAY
    max_ttl: Seconds = DAY
    backdate: Seconds = DEFAULT_BACKDATE
    clamp_to_token: bool = False


@dataclass(frozen=True, slots=True)
class RenewalSettings:
    """Renewal by certificate: a listener of its own, for TLS handshakes with a client certificate."""

    listen: HostPort
    max_without_token: Seconds = DAY
    """See `meshpki.ca.profile.Profile.max_without_token_seconds`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the server takes on at once."""

    in_flight: int = 64
    """Calls of one listener that were begun and have no answer yet; one more is told RESOURCE_EXHAUSTED."""
    threads: int = 16
    """Calls that may wait at once for one cluster's API server, or for a signer outside of this process."""
    connections: int = 4096
    """Of one listener, at a time; one more is closed at once."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError for numbers that no server could live with."""
        if not 1 <= self.threads <= self.in_flight <= 4096:
            raise InvalidValueError(
                f"{self.threads} threads and {self.in_flight} calls in flight",
                wanted="1 <= threads <= in_flight <= 4096",
            )
        if not 1 <= self.connections <= 1_000_000:
            raise InvalidValueError(f"{self.connections} connections", wanted="1 to 1000000")


@dataclass(frozen=True, slots=True)
class CaConfig:
    """Everything that a CA server has to be told."""

    trust_domain: TrustDomain
    listen: HostPort
    http: HostPort
    """Where /livez, /readyz and /metrics are: plain HTTP, without any secret; meant for the node or the cluster."""
    server_names: tuple[str, ...]
    """DNS names or IP addresses that clients know the server by."""
    issuer: IssuerFiles
    audit: Path
    clusters: tuple[ClusterSettings, ...]
    profile: ProfileSettings = field(default_factory=ProfileSettings)
    limits: Limits = field(default_factory=Limits)
    renewal: RenewalSettings | None = None
    """None: a token for every certificate."""

    def __post_init__(self) -> None:
        """Raise InvalidValueError for what no server can be."""
        if not self.server_names or not all(self.server_names):
            raise InvalidValueError("no server name", wanted="one DNS name or IP address or more in `server_names`")
        if not self.clusters:
            raise InvalidValueError("no cluster", wanted="one cluster or more whose tokens are believed")
        if len({cluster.name for cluster in self.clusters}) != len(self.clusters):
            raise InvalidValueError("two clusters with the same name", wanted="a name of its own for every cluster")
        self.certificate_profile()
        for cluster in self.clusters:
            cluster.policy()

    def certificate_profile(self) -> Profile:
        """The profile that certificates are issued by. Raises InvalidValueError."""
        return Profile(
            trust_domain=self.trust_domain,
            default_ttl_seconds=self.profile.default_ttl,
            max_ttl_seconds=self.profile.max_ttl,
            backdate_seconds=self.profile.backdate,
            clamp_to_token=self.profile.clamp_to_token,
            max_without_token_seconds=self.renewal.max_without_token if self.renewal else None,
        )


def load(path: Path) -> CaConfig:
    """Read the configuration at `path`. Raises UsageError that names every wrong key by its path, MachineError."""
    return parse(read_capped(path, limit=MAX_CONFIG_BYTES), base=path.absolute().parent, name=str(path))


def parse(content: bytes, *, base: Path, name: str = "the configuration") -> CaConfig:
    """Read a configuration whose relative paths begin at `base`. Raises UsageError."""
    return structure(load_yaml(content, name), CaConfig, base=base, name=name)
