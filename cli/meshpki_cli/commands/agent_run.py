"""`meshpki agent run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, TypedDict

import typer

from meshpki_cli import agent_modes

# All of these at run time: typer reads the options out of the annotations.
from meshpki_cli.agent_options import (
    CaAddress,
    Cache,
    CaRenewalAddress,
    CaRoots,
    CaServerName,
    CaTimeout,
    Cluster,
    Files,
    FilesCommand,
    FilesMode,
    FilesOwner,
    FilesSignal,
    Http,
    KeyTypeOption,
    MaxIdentities,
    MaxInFlight,
    Node,
    SdsSocket,
    SecretFiles,
    SharedSocketDirectory,
    StatusFile,
    TokenFile,
    TokenHeader,
    Ttl,
)
from meshpki_cli.options import LogLevelOption

if TYPE_CHECKING:
    from meshpki.agent.rotation.key_request import KeyType


USUAL_MODE: Final = "0600"


class _Common(TypedDict):
    """What both modes are told."""

    ca_address: str
    ca_roots: Path
    ca_server_name: str
    cluster: str
    ttl_seconds: int
    key_type: KeyType
    status_file: Path | None
    http: str
    cache: Path | None
    call_seconds: float


def run(
    context: typer.Context,
    ca_address: CaAddress,
    ca_roots: CaRoots,
    ca_server_name: CaServerName,
    *,
    ca_timeout: CaTimeout = 10.0,
    cluster: Cluster = "",
    ttl: Ttl = "24h",  # type: ignore[assignment]  # the default is parsed as what is typed is
    key_type: KeyTypeOption = "ec-p256",
    sds_socket: SdsSocket = None,
    cache: Cache = None,
    http: Http = "",
    status_file: StatusFile = None,
    log_level: LogLevelOption = "info",
    token_file: TokenFile = None,
    ca_renewal_address: CaRenewalAddress = "",
    shared_socket_directory: SharedSocketDirectory = False,
    secret_files: SecretFiles = None,
    files: Files = None,
    files_mode: FilesMode = USUAL_MODE,
    files_owner: FilesOwner = "",
    files_command: FilesCommand = "",
    files_signal: FilesSignal = "",
    node: Node = False,
    token_header: TokenHeader = "istio_sds_credentials_header-bin",
    max_identities: MaxIdentities = 2048,
    max_in_flight: MaxInFlight = 16,
) -> int:
    """Keep certificates fresh and serve them to Envoy, SPIFFE clients and programs, until SIGINT or SIGTERM.

    Pod mode, beside one workload, needs --token-file, and a face: --sds-socket or --files, or both. Node mode
    (--node), once for all workloads of a node, needs --sds-socket: each call brings its own token in a header.

    On --sds-socket both modes serve Envoy's SDS and the SPIFFE Workload API (X.509). A SPIFFE client finds it by
    SPIFFE_ENDPOINT_SOCKET=unix://SOCKET; in node mode it has to send a token too, and most have no way to. For
    programs without either protocol, pod mode keeps PEM files in --files.

    It ends when its terminal closes, too. Without a terminal SIGHUP only has it look at its files at once.

    Nothing secret is in the arguments: tokens come out of files and headers.
    """
    from meshpki.runtime import logs

    logs.configure(log_level)
    logs.quiet_grpc()
    from meshpki.agent.rotation.key_request import KeyType
    from meshpki.errors import UsageError

    common: _Common = {
        "ca_address": ca_address,
        "ca_roots": ca_roots,
        "ca_server_name": ca_server_name,
        "cluster": cluster,
        "ttl_seconds": ttl,
        "key_type": KeyType(key_type),
        "status_file": status_file,
        "http": http,
        "cache": cache,
        "call_seconds": ca_timeout,
    }
    agent_modes.refuse_foreign(agent_modes.given(context), node=node)
    if node:
        if sds_socket is None:
            raise UsageError("--node without a socket", wanted="--sds-socket, where the node's workloads come to")
        return _run_node(common, sds_socket, token_header, max_identities, max_in_flight)
    if token_file is None:
        raise UsageError("no token file", wanted="--token-file, or --node where each call brings its own token")
    from meshpki.agent.pod.run import run_agent
    from meshpki.agent.process.config import AgentConfig

    config = AgentConfig(
        **common,
        token_file=token_file,
        sds_socket=sds_socket,
        files=files,
        files_mode=_mode(files_mode),
        files_owner=files_owner,
        files_command=files_command,
        files_signal=files_signal,
        ca_renewal_address=ca_renewal_address,
        shared_socket_directory=shared_socket_directory,
        secret_files=tuple(secret_files or ()),
    )
    return run_agent(config)


def _mode(text: str) -> int:
    from meshpki.agent.process.config import KEY_FILE_MODE

    if text == USUAL_MODE:
        return KEY_FILE_MODE
    from meshpki.agent.files.access import parse_mode  # here: not every agent has files

    return parse_mode(text)


def _run_node(common: _Common, socket: Path, token_header: str, max_identities: int, max_in_flight: int) -> int:
    from meshpki.agent.node.config import NodeConfig
    from meshpki.agent.node.limits import Limits
    from meshpki.agent.node.run import run_node

    limits = Limits(identities=max_identities)
    config = NodeConfig(**common, socket=socket, token_header=token_header, limits=limits, at_once=max_in_flight)
    return run_node(config)
