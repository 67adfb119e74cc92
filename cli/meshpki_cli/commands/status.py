"""`meshpki status`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from meshpki.errors import ExitCode
from meshpki_cli.options import OutputOption, StateDirOption, StrictPluginsOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki_cli.page import Page


def run(
    state_dir: StateDirOption, strict_plugins: StrictPluginsOption = False, output: OutputOption = Output.TABLE
) -> int:
    """Show what is installed, what runs, and how fresh each workload's certificate is.

    Exit status 1 unless all is well.
    """
    from meshpki import plugins
    from meshpki.provision import journal, status

    found = status.status(plugins.load(strict=strict_plugins), state_dir, journal.read(state_dir))

    def view(page: Page) -> None:
        from meshpki_cli.status_view import show_status

        show_status(page, found, time.time())

    emit(output, {"healthy": found.healthy, "installation": found}, view)
    return ExitCode.DONE if found.healthy else ExitCode.ERROR
