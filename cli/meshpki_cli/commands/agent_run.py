"""`meshpki agent run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from meshpki_cli.durations import parse_duration
from meshpki_cli.options import LogLevelOption


def run(
    ca_address: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the CA listens.")],
    ca_roots: Annotated[Path, typer.Option(metavar="FILE", help="PEM certificates that the CA must chain to.")],
    ca_server_name: Annotated[str, typer.Option(metavar="NAME", help="DNS name in the CA's certificate.")],
    *,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The workload's token; read anew for every call to the CA.")
    ] = None,
    sds_socket: Annotated[
        Path | None, typer.Option(metavar="SOCKET", help="Serve Envoy's secret discovery on this unix socket.")
    ] = None,
    files: Annotated[
        Path | None, typer.Option(metavar="DIRECTORY", help="Keep key, chain and roots here as one atomic set.")
    ] = None,
    files_mode: Annotated[
        str, typer.Option(metavar="MODE", help="Mode of files with the key: 0600, 0400, 0640 or 0440.")
    ] = "0600",
    files_owner: Annotated[str, typer.Option(metavar="USER:GROUP", help="Who gets the files; else the agent.")] = "",
    files_command: Annotated[
        str, typer.Option(metavar="COMMAND", help="Program (absolute path) to run after a change; no shell.")
    ] = "",
    files_signal: Annotated[
        str, typer.Option(metavar="SIGNAL:PIDFILE", help="Signal (HUP, USR1, USR2) to send after a change.")
    ] = "",
    ca_renewal_address: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Where the CA renews by the certificate that is held, while there is no token."
        ),
    ] = "",
    cluster: Annotated[str, typer.Option(metavar="NAME", help="Cluster to name to the CA.")] = "",
    ttl: Annotated[
        int, typer.Option(metavar="DURATION", parser=parse_duration, help="Life to ask for, such as 12h.")
    ] = "24h",  # type: ignore[assignment]  # the default is parsed as what is typed is
    key_type: Annotated[Literal["ec-p256", "rsa-2048"], typer.Option(help="Key to make for each renewal.")] = "ec-p256",
    status_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write state, expiry and the last failure here, as JSON.")
    ] = None,
    shared_socket_directory: Annotated[
        bool,
        typer.Option(
            "--shared-socket-directory",
            help="Accept a socket directory that this pod's other containers can write in: a Kubernetes emptyDir.",
        ),
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIRECTORY", help="Keep key, chain and roots here (0700), to go on after a restart."),
    ] = None,
    secret_files: Annotated[
        list[Path] | None,
        typer.Option(metavar="DIRECTORY", help="Let Envoy name PEM files below here as secrets; repeatable."),
    ] = None,
    http: Annotated[str, typer.Option(metavar="HOST:PORT", help="Show /livez, /readyz and /metrics here.")] = "",
    node: Annotated[
        bool,
        typer.Option("--node", help="Serve every workload of this node; each call brings its own token in a header."),
    ] = False,
    token_header: Annotated[
        str, typer.Option(metavar="NAME", help="With --node: the header of the token; else `authorization`.")
    ] = "istio_sds_credentials_header-bin",
    max_identities: Annotated[int, typer.Option(min=1, help="With --node: accepted tokens at a time.")] = 2048,
    max_in_flight: Annotated[int, typer.Option(min=1, help="With --node: calls to the CA at a time.")] = 16,
    log_level: LogLevelOption = "info",
) -> int:
    """Keep one workload's certificate fresh and serve it to Envoy, until SIGINT or SIGTERM.

    At least one of --sds-socket and --files is needed. The token is in a file: nothing secret is in the arguments.
    With --node it serves many workloads on one --sds-socket, and needs no --token-file.
    """
    from meshpki.runtime import logs

    logs.configure(log_level)
    logs.quiet_grpc()
    from meshpki.agent.config import AgentConfig
    from meshpki.agent.file_access import parse_mode
    from meshpki.agent.key_request import KeyType
    from meshpki.errors import UsageError

    if node:
        if sds_socket is None or token_file is not None or files is not None:
            raise UsageError("--node", wanted="--sds-socket, and neither --token-file nor --files")
        if cache is not None or shared_socket_directory or ca_renewal_address or secret_files:
            raise UsageError(
                "--node with --cache, --ca-renewal-address, --secret-files or --shared-socket-directory",
                wanted="none of them",
            )
        if files_owner or files_command or files_signal or files_mode != "0600":
            raise UsageError("--node with an option for files", wanted="no --files-...: node mode writes no files")
        from meshpki.agent.node_config import NodeConfig
        from meshpki.agent.node_run import run_node
        from meshpki.agent.node_table import Limits

        return run_node(
            NodeConfig(
                ca_address=ca_address,
                ca_roots=ca_roots,
                ca_server_name=ca_server_name,
                socket=sds_socket,
                token_header=token_header,
                cluster=cluster,
                ttl_seconds=ttl,
                key_type=KeyType(key_type),
                status_file=status_file,
                http=http,
                limits=Limits(identities=max_identities),
                at_once=max_in_flight,
            )
        )
    if token_file is None:
        raise UsageError("no token file", wanted="--token-file, or --node where each call brings its own token")
    from meshpki.agent.run import run_agent

    config = AgentConfig(
        ca_address=ca_address,
        ca_roots=ca_roots,
        ca_server_name=ca_server_name,
        token_file=token_file,
        sds_socket=sds_socket,
        files=files,
        files_mode=parse_mode(files_mode),
        files_owner=files_owner,
        files_command=files_command,
        files_signal=files_signal,
        ca_renewal_address=ca_renewal_address,
        cluster=cluster,
        ttl_seconds=ttl,
        key_type=KeyType(key_type),
        status_file=status_file,
        shared_socket_directory=shared_socket_directory,
        cache=cache,
        secret_files=tuple(secret_files or ()),
        http=http,
    )
    return run_agent(config)
