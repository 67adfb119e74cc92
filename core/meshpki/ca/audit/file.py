"""An audit log as it lies on a disk: the lines, and beside them the head, which says how many there must be.

The head (`<log>.head`) is one line of fixed size: number of durable records, hash of the last of them, checksum. It
is overwritten after every commit, when the records that it counts are on the disk already. So it may count fewer
records than the log holds (a crash between the two), never more: a log shorter than its head was cut.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from meshpki.ca.audit.record import GENESIS_HASH, MAX_LINE_BYTES, check_line, is_line
from meshpki.errors import IntegrityError, MachineError
from meshpki.runtime.files import machine_errors, read_capped

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HEAD_BYTES: Final = 95
_HEAD_LINE: Final = re.compile(rb"([0-9]{20}) ([0-9a-f]{64}) ([0-9a-f]{8})\n", re.ASCII)
_READ_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class Head:
    """How many records are durable, and the hash of the last."""

    records: int = 0
    hash: bytes = GENESIS_HASH


@dataclass(frozen=True, slots=True)
class Scan:
    """What a walk through a log found: its last place in the chain, and the bytes of an unfinished line, if any."""

    records: int
    hash: bytes
    end: int
    """Offset behind the last complete line."""
    torn: bytes


def head_path(log: Path) -> Path:
    """Where the head of `log` lies."""
    return log.with_name(log.name + ".head")


def encode_head(head: Head) -> bytes:
    """One line of HEAD_BYTES: it fits a disk sector, so that it is never half new."""
    body = b"%020d %b" % (head.records, head.hash.hex().encode())
    return b"%b %08x\n" % (body, zlib.crc32(body))


def decode_head(content: bytes) -> Head | None:
    """Read a head; None when it is not one, or was read while it was written."""
    match = _HEAD_LINE.fullmatch(content)
    if match is None or zlib.crc32(content[:85]) != int(match[3], 16):
        return None
    return Head(int(match[1]), bytes.fromhex(match[2].decode()))


def read_head(log: Path) -> Head | None:
    """Read the head of `log`; None when there is none, or when it was never written to its end.

    Raises IntegrityError when it is damaged, MachineError.
    """
    path = head_path(log)
    if not path.exists():
        return None
    content = b""
    for _ in range(_READ_ATTEMPTS):  # a running server may be overwriting it
        content = read_capped(path, limit=HEAD_BYTES)
        head = decode_head(content)
        if head is not None:
            return head
    if len(content) < HEAD_BYTES:
        return None  # it is written at once and overwritten in place: only its making can have been cut short
    raise IntegrityError(f"{path} is damaged", wanted="the head of an audit log", todo=_restore(log))


def without_head(log: Path, first: bytes) -> IntegrityError:
    """What to say of a log that holds something, begins with the line `first`, and has no head."""
    state = "damaged" if head_path(log).exists() else "missing"
    return IntegrityError(
        f"{log} holds records, its head {head_path(log)} is {state}" if is_line(first) else f"{log} is no audit log",
        wanted="both, or neither" if is_line(first) else "an audit log with its head, or none of the two",
        todo=_restore(log) if is_line(first) else "check the path",
    )


def scan(file: BinaryIO, head: Head | None, each: Callable[[bytes], None] | None = None) -> Scan:
    """Walk a log from its beginning and check every line's place, hash, and the head's word on how many there are.

    Streams: memory is bounded by MAX_LINE_BYTES. `each` gets every checked line, without its newline. Raises
    IntegrityError at the first line that is not what it should be.
    """
    previous, count, end, seen_head = GENESIS_HASH, 0, 0, head is None or head.records == 0
    torn = b""
    while line := file.readline(MAX_LINE_BYTES):
        if not line.endswith(b"\n"):
            torn = line
            break
        content = line[:-1]
        previous = check_line(previous, count, content)
        count, end = count + 1, end + len(line)
        if head is not None and count == head.records:
            seen_head = previous == head.hash
            if not seen_head:
                raise IntegrityError(f"record {count - 1} is not the one that the head names: the log was rewritten")
        if each is not None:
            each(content)
    if len(torn) == MAX_LINE_BYTES:
        raise IntegrityError(f"record {count} is longer than {MAX_LINE_BYTES} bytes: this is no audit log")
    if head is not None and not seen_head:
        raise IntegrityError(
            f"the log ends after {count} records, its head counts {head.records}",
            wanted="every record that was ever made durable",
            todo="the end of the log was cut off: restore it, or keep what is left as evidence",
        )
    return Scan(count, previous, end, torn)


def scan_path(log: Path, each: Callable[[bytes], None] | None = None) -> Scan:
    """Walk the log at `log`, with its head. Raises IntegrityError, and MachineError when it cannot be read."""
    head = read_head(log)  # before the log: a server may be appending
    if head is None:
        raise _no_log(log)
    try:
        with log.open("rb", buffering=1 << 18) as file:
            return scan(file, head, each)
    except FileNotFoundError as error:
        raise IntegrityError(f"{log} is missing, its head is there", todo=_restore(log)) from error
    except OSError as error:
        raise MachineError(f"could not read {log}: {error.strerror}") from error


def _no_log(log: Path) -> IntegrityError | MachineError:
    """A wrong path is no sign of tampering, and neither is a log that was never begun."""
    if not log.exists():
        return MachineError(f"there is no audit log at {log}", todo="check the path")
    with machine_errors("could not read", log), log.open("rb") as file:
        first = file.readline(MAX_LINE_BYTES)
    if is_line(first):
        return without_head(log, first)
    if first:
        return MachineError(f"{log} is no audit log", wanted="the file named by `audit` in the CA's configuration")
    return MachineError(
        f"{log} is empty: it was never begun, or somebody emptied it together with its head",
        todo="start the server; if an end of this log was ever noted, look into it",
    )


def _restore(log: Path) -> str:
    return f"restore {log} and {head_path(log).name} from the same moment, or move both away and begin a new log"
