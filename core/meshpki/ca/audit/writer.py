"""The one hand that writes an audit log: all of a batch or nothing, synced, then the head."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from typing import TYPE_CHECKING, Final, Self

from meshpki.ca.audit.file import Head, Scan, encode_head, head_path, read_head, scan, without_head
from meshpki.ca.audit.record import RecordKind, chain_line, parse_line
from meshpki.errors import IntegrityError, MachineError, UnavailableError
from meshpki.runtime.files import PRIVATE_FILE, machine_errors, sync_directory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_LOG = logging.getLogger(__name__)
_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class AuditWriter:
    """Exclusive hold on a log and its head. Not safe for threads: `AuditLog` lets one in at a time."""

    def __init__(self, path: Path, log: int, head: int, found: Scan) -> None:
        self.path = path
        self._log = log
        self._head_file = head
        self.head = Head(found.records, found.hash)
        self._end = found.end
        self._ragged = bool(found.torn)
        """Bytes that belong to no durable record may stand behind `_end`: cut them off before writing."""
        self._synced_head = Head()
        self.failures = 0
        self.failure = ""
        """Why the last commit failed; empty when it did not."""

    @classmethod
    def open(cls, path: Path, trust_domain: str) -> tuple[Self, Scan]:
        """Take the log at `path`, made when there is none, and check all of it. Raises IntegrityError, MachineError."""
        with machine_errors("could not open", path):
            log = os.open(path, _FLAGS, PRIVATE_FILE)
        try:
            found = _examine(path, log, trust_domain)
            with machine_errors("could not open", head_path(path)):
                head = os.open(head_path(path), _FLAGS, PRIVATE_FILE)
        except BaseException:
            os.close(log)
            raise
        writer = cls(path, log, head, found)
        try:
            with machine_errors("could not write", head_path(path)):
                writer._put_head()
                os.fdatasync(head)
                sync_directory(path.parent)
        except BaseException:
            writer.close()
            raise
        return writer, found

    def commit(self, encoded: Sequence[bytes]) -> None:
        """Write these records behind the last and sync. Raises UnavailableError, with nothing written.

        After a failure (a full disk, an I/O error) the next commit first cuts off what the failed one left, so that
        the chain goes on from the last durable record as soon as there is space.
        """
        digest, sequence, lines = self.head.hash, self.head.records, []
        for fields in encoded:
            line, digest = chain_line(digest, sequence, fields)
            sequence += 1
            lines.append(line)
        content = b"".join(lines)
        try:
            if self._log < 0:
                raise OSError(errno.ESTALE, "it is closed, or was moved, deleted or cut")  # noqa: TRY301
            if self._ragged:
                os.ftruncate(self._log, self._end)
            self._ragged = True
            _write_all(self._log, content, self._end)
            os.fdatasync(self._log)
        except OSError as error:
            self._fail(error.strerror or str(error))
            raise UnavailableError(
                f"the audit log cannot be written: {error.strerror}",
                todo=f"look at the file system of {self.path.parent}; nothing is issued until it takes writes again",
            ) from error
        self._ragged = False
        self._end += len(content)
        self.head = Head(sequence, digest)
        self.failures, self.failure = 0, ""
        self._write_head()

    def check_place(self) -> None:
        """Notice a log that was moved, deleted or cut under us: every later commit fails, until a restart looks."""
        try:
            status, own = self.path.stat(), os.fstat(self._log)
            lost = (status.st_dev, status.st_ino) != (own.st_dev, own.st_ino) or own.st_size < self._end
        except OSError:
            lost = True
        if lost and self._log >= 0:
            _LOG.critical("the audit log was moved, deleted or cut under the server", extra={"path": str(self.path)})
            os.close(self._log)
            self._log = -1
            self._fail("the file was moved, deleted or cut by somebody else")

    def sync_head(self) -> None:
        """Make the head durable too, if it changed. A failure is logged: the head on the disk is merely older."""
        if self.head == self._synced_head:
            return
        try:
            os.fdatasync(self._head_file)
        except OSError as error:
            _LOG.warning("the head of the audit log could not be synced", extra={"error": error.strerror})
        else:
            self._synced_head = self.head

    def close(self) -> None:
        """Let go of the files."""
        for descriptor in (self._log, self._head_file):
            if descriptor >= 0:
                os.close(descriptor)
        self._log = self._head_file = -1

    def _write_head(self) -> None:
        try:
            self._put_head()
        except OSError as error:  # its one block was written when the log was opened: this is rare
            _LOG.warning("the head of the audit log could not be written", extra={"error": error.strerror})

    def _put_head(self) -> None:
        _write_all(self._head_file, encode_head(self.head), 0)

    def _fail(self, why: str) -> None:
        self.failures += 1
        if not self.failure:
            _LOG.error("the audit log cannot be written; no certificate leaves", extra={"error": why})
        self.failure = why


def _write_all(descriptor: int, content: bytes, offset: int) -> None:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _examine(path: Path, descriptor: int, trust_domain: str) -> Scan:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise MachineError(
            f"another process writes {path}", todo="stop the other CA server, or give this one a log of its own"
        ) from error
    head = read_head(path)
    with os.fdopen(os.dup(descriptor), "rb", buffering=1 << 18) as file:
        first = file.readline(4096)
        file.seek(0)
        if head is None and first:  # a server that was killed while it made them has left nothing in the log
            raise without_head(path, first)
        if first.endswith(b"\n"):
            _check_genesis(path, first, trust_domain)
        return scan(file, head)


def _check_genesis(path: Path, line: bytes, trust_domain: str) -> None:
    genesis = parse_line(line).record
    if genesis.kind is not RecordKind.GENESIS or genesis.trust_domain != trust_domain:
        raise IntegrityError(
            f"{path} begins with {genesis.kind} of trust domain {genesis.trust_domain[:80]!r}",
            wanted=f"a log that began for trust domain {trust_domain!r}",
            todo="name another path for the audit log: one log belongs to one trust domain",
        )
