"""`meshpki ca serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from meshpki_cli.options import LogLevelOption


def run(
    config: Annotated[Path, typer.Option(metavar="FILE", help="The server's configuration, YAML.")],
    log_level: LogLevelOption = "info",
) -> int:
    """Serve certificates to workloads, until SIGINT or SIGTERM; requests in flight are finished first.

    When its terminal closes, too. Without a terminal SIGHUP only has it say whether the configuration has changed.
    """
    from meshpki.runtime import logs

    logs.configure(log_level)
    logs.quiet_grpc()
    from meshpki.ca.config import load
    from meshpki.ca.server.ca_server import serve

    return serve(load(config), lambda: load(config))
