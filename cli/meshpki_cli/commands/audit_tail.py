"""`meshpki audit tail`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.ca.audit.record import AuditLine
    from meshpki_cli.page import Page


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The log, for example audit/issuance.jsonl.")],
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, max=100_000, help="How many records.")] = 10,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the last records of an audit log, oldest first, without a look at the chain.

    Each record is a line of JSON: `tail -f FILE` follows the log as it is written.
    """
    from meshpki.ca.audit import verify as audit_verify

    found = audit_verify.tail(file, lines)
    emit(output, {"records": found}, lambda page: _show(page, found))


def _show(page: Page, found: Sequence[AuditLine]) -> None:
    from meshpki_cli.page import Cell, style_of

    rows = [
        (
            str(line.sequence),
            line.record.time,
            Cell(line.record.kind, style_of(line.record.kind)),
            line.record.spiffe_id or _subject(line),
            _detail(line),
        )
        for line in found
    ]
    page.table(("RECORD", "TIME", "KIND", "IDENTITY", "DETAIL"), rows)


def _subject(line: AuditLine) -> str:
    record = line.record
    return f"{record.namespace}/{record.service_account}" if record.service_account else ""


def _detail(line: AuditLine) -> str:
    record = line.record
    parts = (
        ("", record.reason),
        ("until ", record.not_after),
        ("serial ", record.serial),
        ("renewed from ", record.renewed_from),
        ("count ", str(record.count or "")),
        ("trust domain ", record.trust_domain),
        ("from ", record.peer),
        ("", record.detail),
    )
    return ", ".join(label + value for label, value in parts if value)
