"""`meshpki audit verify`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshpki.errors import ExitCode
from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki.ca.audit.verify import AuditReport
    from meshpki_cli.page import Page


def _known(text: str) -> tuple[int, str]:
    records, colon, digest = text.partition(":")
    if not (colon and records.isascii() and records.isdigit() and len(digest) == 64):
        raise typer.BadParameter("wanted RECORDS:HASH, as an earlier `meshpki audit verify` wrote it")
    return int(records), digest.lower()


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The log, for example audit/issuance.jsonl.")],
    known: Annotated[
        str,
        typer.Option(metavar="RECORDS:HASH", help="End of the log as it was noted earlier, on another machine."),
    ] = "",
    output: OutputOption = Output.TABLE,
) -> int:
    """Find any edited, cut or missing record of an audit log. Exit status 1 when it is not whole."""
    from meshpki.ca.audit import verify as audit_verify

    report = audit_verify.verify(file, known=_known(known) if known else None)
    emit(output, report, lambda page: _show(page, report))
    return ExitCode.DONE if report.intact else ExitCode.ERROR


def _show(page: Page, report: AuditReport) -> None:
    from meshpki_cli.page import BAD, GOOD, Cell

    verdict = Cell("whole", GOOD) if report.intact else Cell(f"NOT WHOLE: {report.finding}", BAD)
    counts = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
    page.pairs(
        [
            ("log", str(report.path)),
            ("verdict", verdict),
            ("to do", report.todo),
            ("records", f"{report.records} ({counts})" if counts else str(report.records)),
            ("trust domain", report.trust_domain),
            ("first", report.first_time),
            ("last", report.last_time),
            ("unfinished", f"{report.torn_bytes} bytes at the end, no fault" if report.torn_bytes else ""),
            ("end", f"{report.records}:{report.last_hash}" if report.records else ""),
        ]
    )
    if report.intact and report.records:
        page.blank()
        page.line("Note the end elsewhere; with --known END a log that was replaced as a whole is noticed too.")
