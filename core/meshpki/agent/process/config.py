"""What an agent is told: where its CA is, where its token is, and which faces to show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from meshpki.agent.rotation.key_request import KeyType
from meshpki.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.files.access import FileAccess
    from meshpki.agent.files.notice import CommandNotice, SignalNotice

DAY_SECONDS: Final = 86_400
KEY_FILE_MODE: Final = 0o600
"""As `FileAccess` has it, which not every agent loads: a start is mostly imports."""
MAX_PORT: Final = 65_535
CALL_SECONDS: Final = 10.0
"""How long one call to the CA may take: a CA of ours answers within milliseconds, or says that it is shedding load."""
MIN_CALL_SECONDS: Final = 0.1
MAX_CALL_SECONDS: Final = 300.0
MAX_TTL_SECONDS: Final = 90 * DAY_SECONDS
"""The longest that any Istio CA grants (facts: MAX_WORKLOAD_CERT_TTL); more is a slip of the pen."""


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """One workload's agent. Raises UsageError when it cannot be meant."""

    ca_address: str
    """`HOST:PORT`."""
    ca_roots: Path
    """PEM file: the CA's own certificate, and every certificate it issues, must chain to one of these."""
    ca_server_name: str
    """The DNS name that the CA's certificate must carry."""
    token_file: Path
    sds_socket: Path | None = None
    files: Path | None = None
    """Directory for key.pem, cert-chain.pem, root-cert.pem and credential-bundle.pem."""
    files_mode: int = KEY_FILE_MODE
    """Of the files that hold the key."""
    files_owner: str = ""
    """`USER:GROUP`, `USER` or `:GROUP`; empty for the agent's own."""
    files_command: str = ""
    """A program's absolute path and its arguments, to run after a change."""
    files_signal: str = ""
    """`HUP:/path/of.pid`: whom to signal after a change, in place of a command."""
    ca_renewal_address: str = ""
    """`HOST:PORT` where the CA takes the certificate that is held, while there is no token; empty for none."""
    cluster: str = ""
    ttl_seconds: int = DAY_SECONDS
    key_type: KeyType = KeyType.EC_P256
    status_file: Path | None = None
    shared_socket_directory: bool = False
    """Whether others of this pod may write in the socket's directory, as in a Kubernetes emptyDir (ADR 0012)."""
    cache: Path | None = None
    """Directory for what a restarted agent goes on with."""
    secret_files: tuple[Path, ...] = ()
    """Directories below which Envoy may name files (`file-cert:`, `file-root:`); none means no such names."""
    http: str = ""
    """`HOST:PORT` for /livez, /readyz and /metrics; empty for none. Port 0 takes a free one."""
    call_seconds: float = CALL_SECONDS
    """How long one call to the CA may take, dialling included."""

    def __post_init__(self) -> None:
        """Refuse what would only fail later, and less clearly."""
        check_shared(self.ca_address, self.ca_server_name, self.ttl_seconds, self.http)
        check_call_seconds(self.call_seconds)
        if self.ca_renewal_address:
            check_address("--ca-renewal-address", self.ca_renewal_address)
        if self.sds_socket is None and self.files is None:
            raise UsageError("an agent with no face", wanted="--sds-socket, --files, or both")
        if self.secret_files and self.sds_socket is None:
            raise UsageError("directories for secrets without a socket to serve them", wanted="--sds-socket too")
        if self.shared_socket_directory and self.sds_socket is None:
            raise UsageError("a shared socket directory without a socket", wanted="--sds-socket too")
        if self.files is not None:
            _ = self.files_access, self.files_notice
        elif (self.files_mode, self.files_owner, self.files_command, self.files_signal) != (KEY_FILE_MODE, "", "", ""):
            raise UsageError("an option for files, and no files", wanted="--files with its directory")

    @property
    def files_access(self) -> FileAccess:
        """Who may read the files. Raises UsageError."""
        from meshpki.agent.files.access import FileAccess, parse_owner

        uid, gid = parse_owner(self.files_owner) if self.files_owner else (None, None)
        return FileAccess(self.files_mode, uid, gid)

    @property
    def files_notice(self) -> CommandNotice | SignalNotice | None:
        """Whom to tell after a change. Raises UsageError."""
        if self.files_command and self.files_signal:
            raise UsageError("a command and a signal after a change", wanted="one of the two")
        if not self.files_command and not self.files_signal:
            return None
        from meshpki.agent.files.notice import parse_command, parse_signal

        if self.files_command:
            return parse_command(self.files_command)
        return parse_signal(self.files_signal)


def listen_address(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`, an IPv6 host in brackets or without. Raises UsageError."""
    host, port = _host_and_port(text)
    if not host or not 0 <= port <= MAX_PORT:
        raise UsageError(f"address {text[:120]!r} to listen on", wanted="HOST:PORT, for example 127.0.0.1:15020")
    return host.removeprefix("[").removesuffix("]"), port


def check_shared(ca_address: str, ca_server_name: str, ttl_seconds: int, http: str) -> None:
    """Raise UsageError unless both modes could be told this."""
    check_address("--ca-address", ca_address)
    if not ca_server_name:
        raise UsageError("no name for the CA's certificate", wanted="a DNS name, for example localhost")
    if not 0 < ttl_seconds <= MAX_TTL_SECONDS:
        raise UsageError(f"a certificate life of {ttl_seconds} s", wanted="1 s to 90 days")
    if http:
        listen_address(http)


def check_address(option: str, address: str) -> None:
    """Raise UsageError unless a CA could be called there."""
    host, port = _host_and_port(address)
    if not host or "/" in host or not 0 < port <= MAX_PORT:
        raise UsageError(f"CA address {address[:120]!r}", wanted=f"{option}=HOST:PORT, for example 127.0.0.1:15012")


def _host_and_port(text: str) -> tuple[str, int]:
    """The two parts; port -1 when there is none."""
    host, _, port = text.rpartition(":")
    return host, int(port) if port.isascii() and port.isdigit() and len(port) <= len(str(MAX_PORT)) else -1


def check_call_seconds(seconds: float) -> None:
    """Raise UsageError unless a call to the CA can be meant to take so long at most."""
    if not MIN_CALL_SECONDS <= seconds <= MAX_CALL_SECONDS:  # nor is it a number that compares with nothing
        raise UsageError(f"--ca-timeout {seconds}", wanted=f"{MIN_CALL_SECONDS:g} to {MAX_CALL_SECONDS:g} seconds")
