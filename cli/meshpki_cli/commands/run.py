"""`meshpki run`."""

from __future__ import annotations

from typing import Annotated

import typer

from meshpki_cli.options import LogLevelOption, StateDirOption, StrictPluginsOption


def run(
    state_dir: StateDirOption,
    platform: Annotated[str, typer.Option("--platform", metavar="NAME", help="Platform to run.")],
    strict_plugins: StrictPluginsOption = False,
    log_level: LogLevelOption = "info",
) -> int:
    """Keep a provisioned platform running in the foreground, until Ctrl-C or SIGTERM, or until its terminal closes.

    Only for platforms that are their own supervisor, such as local.
    """
    from meshpki import plugins
    from meshpki.runtime import logs

    logs.configure(log_level)
    return plugins.load(strict=strict_plugins).run(platform, state_dir)
