"""`meshpki verify`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from meshpki.errors import ExitCode, OperatorNeededError
from meshpki_cli.options import OutputOption, StateDirOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki_cli.page import Page


def run(state_dir: StateDirOption, output: OutputOption = Output.TABLE) -> int:
    """Prove by a real round that identities are issued, and that wrong tokens are refused.

    Exit status 1 if a check failed.
    """
    from meshpki import plugins
    from meshpki.provision import journal
    from meshpki_cli.provisioning import verified

    planned = journal.read(state_dir).plan
    if planned is None:
        raise OperatorNeededError(f"nothing is provisioned in {state_dir}", todo="meshpki provision --platform NAME")
    report = verified(plugins.load(), planned)

    def view(page: Page) -> None:
        from meshpki_cli.verify_view import show_checks

        show_checks(page, report)

    emit(output, {"passed": report.passed, "checks": report.checks}, view)
    return ExitCode.DONE if report.passed else ExitCode.ERROR
