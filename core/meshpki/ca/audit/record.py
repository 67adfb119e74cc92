"""What was decided, as a line that cannot be edited unseen: the audit record, its canonical form, the hash chain.

A line is one JSON object: `{"seq":N,` then the record's fields, in the order of `AuditRecord` and without the empty
ones, then `"hash":"<64 hex digits>"}`. The hash is SHA-256 over the 32 bytes of the previous line's hash (zeros
before the first) and this line up to the comma before `"hash"`. The first record is `genesis`.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quote
from operator import attrgetter
from typing import Final

from meshpki.errors import IntegrityError
from meshpki.value import value

GENESIS_HASH: Final = bytes(32)
MAX_FIELD_CHARACTERS: Final = 1024
"""A longer value is recorded cut to this; everything we build is shorter, a token's `jti` need not be."""
MAX_LINE_BYTES: Final = 128 * 1024
_TAIL_BYTES: Final = len(',"hash":""}') + 64
_TAIL: Final = re.compile(rb',"hash":"([0-9a-f]{64})"\}', re.ASCII)
_HEAD: Final = re.compile(rb'\{"seq":(0|[1-9][0-9]{0,18}),', re.ASCII)


class RecordKind(StrEnum):
    """What a record tells. Values are never re-used."""

    GENESIS = "genesis"
    """The log begins. Names the trust domain."""
    STARTED = "started"
    """A server opened the log. Names the trust domain and the issuer key it signs with."""
    STOPPED = "stopped"
    """That server closed the log in good order."""
    SERVING = "serving"
    """A certificate for the server's own TLS."""
    ISSUED = "issued"
    REFUSED = "refused"
    SUPPRESSED = "suppressed"
    """`count` refusals were not recorded one by one, because there were too many."""
    RESUMED = "resumed"
    """Writing works again after `count` commits failed. No certificate left in between."""
    CUT = "cut"
    """A crash left `count` bytes of an unfinished line, which were cut off; `detail` is their SHA-256."""


@value
class AuditRecord:
    """One decision or one event of the log's own life. Empty strings and zeros are left out of the line."""

    kind: RecordKind
    time: str
    """RFC 3339, UTC, milliseconds: `timestamp` makes it."""
    request_id: str = ""
    cluster: str = ""
    namespace: str = ""
    service_account: str = ""
    service_account_uid: str = ""
    pod: str = ""
    pod_uid: str = ""
    node: str = ""
    jti: str = ""
    serial: str = ""
    """Lower-case hexadecimal."""
    spiffe_id: str = ""
    not_after: str = ""
    """RFC 3339, UTC, seconds."""
    issuer_key_id: str = ""
    reason: str = ""
    peer: str = ""
    trust_domain: str = ""
    count: int = 0
    detail: str = ""
    attested_at: str = ""
    """When a token last proved the identity: RFC 3339, UTC, seconds. Where certificates are renewed by themselves."""
    renewed_from: str = ""
    """Serial number of the certificate that was the credential, lower-case hexadecimal; empty where a token was."""


@dataclass(frozen=True, slots=True)
class AuditLine:
    """A record in its place in the chain."""

    sequence: int
    record: AuditRecord
    hash: str


@lru_cache(maxsize=16)
def _seconds(epoch: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(epoch))


def timestamp(epoch: float) -> str:
    """Epoch seconds as RFC 3339 in UTC with milliseconds."""
    whole = int(epoch)
    return f"{_seconds(whole)}.{int((epoch - whole) * 1000):03d}Z"


def second_stamp(epoch: int) -> str:
    """Epoch seconds as RFC 3339 in UTC."""
    return _seconds(epoch) + "Z"


_TEXTS: Final = tuple(field.name for field in fields(AuditRecord) if field.name not in {"kind", "time", "count"})
_texts_of: Final = attrgetter(*_TEXTS)
_PREFIXES: Final = tuple(f',"{name}":' for name in _TEXTS)


def encode_fields(record: AuditRecord) -> bytes:
    """Encode a record's fields canonically, without sequence and hash: what `chain_line` takes."""
    texts = "".join(
        [
            prefix + _quote(text[:MAX_FIELD_CHARACTERS])
            for prefix, text in zip(_PREFIXES, _texts_of(record), strict=True)
            if text
        ]
    )
    count = f',"count":{record.count}' if record.count else ""
    return f'"kind":"{record.kind}","time":{_quote(record.time[:MAX_FIELD_CHARACTERS])}{texts}{count}'.encode("ascii")


def chain_line(previous: bytes, sequence: int, encoded: bytes) -> tuple[bytes, bytes]:
    """Give encoded fields their place: the whole line with its newline, and the hash (32 bytes) that ends it."""
    body = b'{"seq":%d,%b' % (sequence, encoded)
    digest = hashlib.sha256(previous + body)
    return b'%b,"hash":"%b"}\n' % (body, digest.hexdigest().encode()), digest.digest()


def is_line(content: bytes) -> bool:
    """Whether it begins as every line of an audit log does."""
    return _HEAD.match(content) is not None


def check_line(previous: bytes, sequence: int, line: bytes) -> bytes:
    """Return the hash of a line (without newline) that stands where it should; IntegrityError otherwise.

    Looks at the bytes alone: sequence number, and hash over the previous hash and everything before it.
    """
    head = _HEAD.match(line)
    tail = _TAIL.fullmatch(line, max(0, len(line) - _TAIL_BYTES))
    if head is None or tail is None:
        raise IntegrityError(f"record {sequence} is no audit line", wanted='{"seq":...,"hash":"..."} on one line')
    if int(head[1]) != sequence:
        raise IntegrityError(
            f"the record after {sequence - 1} has number {int(head[1])}" if sequence else "the log does not begin at 0",
            wanted=f"number {sequence}: records in between are missing, moved or doubled",
        )
    digest = hashlib.sha256(previous + line[:-_TAIL_BYTES])
    if digest.hexdigest().encode() != tail[1]:
        raise IntegrityError(f"record {sequence} does not match its hash: it, or what stood before it, was edited")
    return digest.digest()


def parse_line(line: bytes) -> AuditLine:
    """Read a line back. Raises IntegrityError for one that we did not write; does not check the chain."""
    try:
        members = json.loads(line)
        sequence, digest = members.pop("seq"), members.pop("hash")
        record = AuditRecord(**{**members, "kind": RecordKind(members["kind"])})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError("a line of the audit log cannot be read", wanted="an audit record as JSON") from error
    numbers, texts = (
        (sequence, members.get("count", 0)),
        (digest, record.time, *_texts_of(record)),
    )
    if not all(isinstance(number, int) for number in numbers) or not all(isinstance(text, str) for text in texts):
        raise IntegrityError("a line of the audit log has members of another type")
    return AuditLine(sequence, record, digest)
