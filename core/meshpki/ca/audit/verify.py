"""Examine an audit log from outside, also while a server writes it: is it whole, and what does its end say."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from shlex import quote
from typing import TYPE_CHECKING

from meshpki.ca.audit.file import scan_path
from meshpki.ca.audit.record import AuditLine, RecordKind, parse_line
from meshpki.errors import IntegrityError, InvalidValueError
from meshpki.runtime.files import machine_errors

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_BLOCK = 64 * 1024


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What `verify` found. `finding` is empty for a log that is whole; else it says what is wrong, first fault only."""

    path: Path
    intact: bool
    finding: str
    todo: str
    records: int
    """Whole records that were checked, up to the finding."""
    counts: Mapping[RecordKind, int]
    last_hash: str
    """Hash of the last whole record: note it elsewhere, and a log replaced with its head is noticed too."""
    trust_domain: str = ""
    first_time: str = ""
    last_time: str = ""
    torn_bytes: int = 0
    """Bytes of an unfinished line at the end: a crash, or a server that is writing just now. No fault."""


@dataclass(slots=True)
class _Reader:
    counts: Counter[RecordKind] = field(default_factory=Counter)
    records: int = 0
    first: AuditLine | None = None
    last: AuditLine | None = None
    wanted_sequence: int = -1
    found_hash: str = ""

    def __call__(self, line: bytes) -> None:
        parsed = parse_line(line)
        if self.first is None:
            self.first = parsed
            if parsed.record.kind is not RecordKind.GENESIS:
                raise IntegrityError("the first record is no genesis", wanted="a log from its beginning")
        self.records += 1
        self.counts[parsed.record.kind] += 1
        self.last = parsed
        if parsed.sequence == self.wanted_sequence:
            self.found_hash = parsed.hash


def verify(path: Path, *, known: tuple[int, str] | None = None) -> AuditReport:
    """Check every record of the log at `path`, its chain and its end. Streams; memory does not grow with the log.

    `known` is a number of records and the hash of the last of them, noted earlier outside this machine: the log must
    still hold that record. A log that is not whole is a report, not an error; raises MachineError when there is none
    or it cannot be read.
    """
    reader = _Reader(wanted_sequence=known[0] - 1 if known else -1)
    finding, todo, torn = "", "", 0
    try:
        torn = len(scan_path(path, reader).torn)
        _check_known(reader.found_hash, known)
    except IntegrityError as error:
        finding, todo = error.seen, error.todo or "keep the files as evidence, and find out who could write them"
    return AuditReport(
        path=path,
        intact=not finding,
        finding=finding,
        todo=todo,
        records=reader.records,
        counts=dict(reader.counts),
        last_hash=reader.last.hash if reader.last else "",
        trust_domain=reader.first.record.trust_domain if reader.first else "",
        first_time=reader.first.record.time if reader.first else "",
        last_time=reader.last.record.time if reader.last else "",
        torn_bytes=torn,
    )


def _check_known(found_hash: str, known: tuple[int, str] | None) -> None:
    if known is not None and found_hash != known[1]:
        raise IntegrityError(f"the log does not hold the record {known[0] - 1} that was noted: it was replaced")


def tail(path: Path, count: int) -> tuple[AuditLine, ...]:
    """Read the last `count` records, oldest first, without a look at the chain; an unfinished line is left out.

    Reads from the end, so that its cost does not grow with the log. Raises MachineError, IntegrityError for a line
    that is none of ours, InvalidValueError for a negative count.
    """
    if count < 0:
        raise InvalidValueError(f"{count} records", wanted="a number of records, 0 or more")
    with machine_errors("could not read", path), path.open("rb") as file:
        end = file.seek(0, 2)
        blocks: deque[bytes] = deque()
        lines = 0
        while end > 0 and lines <= count:
            start = max(0, end - _BLOCK)
            file.seek(start)
            block = file.read(end - start)
            lines += block.count(b"\n")
            blocks.appendleft(block)
            end = start
    content = b"".join(blocks)
    whole = content[: content.rfind(b"\n") + 1].splitlines()
    try:
        return tuple(parse_line(line) for line in whole[len(whole) - min(count, len(whole)) :])
    except IntegrityError as error:
        error.todo = f"find out where: meshpki audit verify {quote(str(path))}"
        raise
