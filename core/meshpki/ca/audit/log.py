"""The audit log that a server writes: durable before the answer, one fsync for each batch, whole after a crash.

Detected when it is opened, as by `meshpki audit verify`: an edited, missing, moved or foreign record, a log that was
cut, a second writer. A line that a crash left unfinished is cut off, and the cut is recorded. Two limits. A power cut
may leave the head up to a second old: records behind it are checked by the chain, but a cut of exactly those is not
seen. And no file shows by itself that log and head were replaced together by somebody who may write both: compare
with a number and hash noted elsewhere (they are logged at start and stop, and the number is a metric).

Rotation by size is not built; its place: a next file begins with a genesis that names the last hash of the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import threading
from typing import TYPE_CHECKING, Final, Self

from meshpki.ca.audit.budget import RefusalBudget
from meshpki.ca.audit.record import AuditRecord, RecordKind, encode_fields, timestamp
from meshpki.ca.audit.writer import AuditWriter
from meshpki.errors import MachineError, UnavailableError
from meshpki.runtime.files import private_directory

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.ca.audit.file import Head, Scan

_LOG = logging.getLogger(__name__)
SUPPRESSED_AFTER_SECONDS: Final = 10.0
ANONYMOUS_PER_SECOND: Final = 1.0
"""Refusals of those who proved nothing: 100 at once, then one a second; about 30 MB a day at the worst."""
VERIFIED_PER_SECOND: Final = 10.0
"""Refusals of callers whose token was good: an accident of theirs, worth more lines."""
BURST: Final = 100


class AuditLog:
    """One process's exclusive hold on an audit log. Safe for threads; `open` makes one."""

    def __init__(self, writer: AuditWriter) -> None:
        self._writer = writer
        self._mutex = threading.Lock()
        self._closed = False
        self._notes = _Notes()

    @classmethod
    def open(cls, path: Path, *, trust_domain: str, issuer_key_id: str, now: float) -> Self:
        """Take the log at `path` (made when there is none), check all of it, and record the start.

        Raises IntegrityError for a log that is not whole or belongs to another trust domain, and MachineError when
        the machine refuses or another server holds it.
        """
        private_directory(path.parent)
        writer, found = AuditWriter.open(path, trust_domain)
        try:
            writer.commit([encode_fields(record) for record in _opening(found, trust_domain, issuer_key_id, now)])
            writer.sync_head()
        except UnavailableError as error:
            writer.close()
            raise MachineError(error.seen, todo=error.todo) from error
        log = cls(writer)
        log._say("the audit log is open")
        return log

    @property
    def head(self) -> Head:
        """What is durable now."""
        return self._writer.head

    @property
    def failure(self) -> str:
        """Why the log cannot be written at the moment; empty when it can."""
        return self._writer.failure

    def append(self, *records: AuditRecord) -> None:
        """Return when all of them are on the disk, by one sync. Raises UnavailableError when none can be brought there.

        A sync costs the processor as much as a signature: whoever has several records brings them together
        (`ca.server.calls.batches`).
        """
        encoded = [encode_fields(record) for record in records]
        with self._mutex:
            self._commit(encoded)

    def note(self, record: AuditRecord, *, verified: bool, now: float) -> None:
        """Record a refusal with the next commit, within the budget of its kind. Never waits for a disk or raises."""
        self._notes.add(record, verified=verified, now=now)

    def flush(self, now: float) -> None:
        """Write refusals, and word of a recovery; look after the files. Call it about once a second."""
        if not self._mutex.acquire(blocking=False):
            return  # whoever writes takes the notes along
        try:
            if self._closed:
                return
            self._writer.check_place()
            self._notes.summarise(now)
            if self._writer.failures:
                self._notes.resumed(self._writer.failures, now)
            with contextlib.suppress(UnavailableError):
                self._commit([])
            self._writer.sync_head()
        finally:
            self._mutex.release()

    def close(self, now: float) -> None:
        """Write what waits, record the stop, let go. Whoever still comes to `append` is refused. Idempotent."""
        with self._mutex:
            if self._closed:
                return
            self._closed = True
            self._notes.summarise(now, all_of_it=True)
            stopped = encode_fields(AuditRecord(RecordKind.STOPPED, timestamp(now)))
            for encoded in ([], [stopped]):
                with contextlib.suppress(UnavailableError):
                    self._commit(encoded)
            self._writer.sync_head()
            self._say("the audit log is closed")
            self._writer.close()

    def _commit(self, encoded: list[bytes]) -> None:
        notes = self._notes.take()
        if not encoded and not notes:
            return
        try:
            self._writer.commit([*encoded, *notes])
        except UnavailableError:
            self._notes.put_back(notes)
            raise

    def _say(self, message: str) -> None:
        head = self._writer.head
        _LOG.info(
            message,
            extra={"path": str(self._writer.path), "audit_records": head.records, "audit_hash": head.hash.hex()},
        )


class _Notes:
    """Refusals that nobody waits for: bounded in number, in rate, and in what a flood makes of them."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._lines: list[bytes] = []
        self._anonymous = RefusalBudget(ANONYMOUS_PER_SECOND, BURST)
        self._verified = RefusalBudget(VERIFIED_PER_SECOND, BURST)

    def add(self, record: AuditRecord, *, verified: bool, now: float) -> None:
        budget = self._verified if verified else self._anonymous
        with self._mutex:
            if len(self._lines) >= 4 * BURST:
                budget.count(record.reason, now)
            elif budget.admit(record.reason, now):
                self._lines.append(encode_fields(record))

    def take(self) -> list[bytes]:
        if not self._lines:
            return []
        with self._mutex:
            taken, self._lines = self._lines, []
        return taken

    def put_back(self, lines: list[bytes]) -> None:
        with self._mutex:
            self._lines[:0] = [line for line in lines if not line.startswith(_RESUMED)]

    def summarise(self, now: float, *, all_of_it: bool = False) -> None:
        with self._mutex:
            for budget in (self._anonymous, self._verified):
                counts = budget.take_suppressed(now, after_seconds=0 if all_of_it else SUPPRESSED_AFTER_SECONDS)
                for reason, count in counts.items():
                    record = AuditRecord(RecordKind.SUPPRESSED, timestamp(now), reason=reason, count=count)
                    self._lines.append(encode_fields(record))

    def resumed(self, failures: int, now: float) -> None:
        with self._mutex:
            self._lines.append(encode_fields(AuditRecord(RecordKind.RESUMED, timestamp(now), count=failures)))


_RESUMED: Final = b'"kind":"resumed"'


def _opening(found: Scan, trust_domain: str, issuer_key_id: str, now: float) -> list[AuditRecord]:
    at = timestamp(now)
    records = []
    if not found.records:
        genesis = AuditRecord(RecordKind.GENESIS, at, trust_domain=trust_domain, issuer_key_id=issuer_key_id)
        records.append(genesis)
    if found.torn:
        digest = hashlib.sha256(found.torn).hexdigest()
        records.append(AuditRecord(RecordKind.CUT, at, count=len(found.torn), detail=digest))
        _LOG.warning("the audit log ended in an unfinished line; it is cut off", extra={"bytes": len(found.torn)})
    records.append(AuditRecord(RecordKind.STARTED, at, trust_domain=trust_domain, issuer_key_id=issuer_key_id))
    return records
