"""The audit record and its chain: canonical, readable again, and no edit goes unseen."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca.audit.record import (
    GENESIS_HASH,
    MAX_FIELD_CHARACTERS,
    MAX_LINE_BYTES,
    AuditRecord,
    RecordKind,
    chain_line,
    check_line,
    encode_fields,
    parse_line,
    second_stamp,
    timestamp,
)
from meshpki.errors import IntegrityError

TEXTS = [field.name for field in fields(AuditRecord) if field.name not in {"kind", "count"}]
RECORDS = st.builds(
    AuditRecord,
    kind=st.sampled_from(RecordKind),
    count=st.integers(0, 2**63),
    **{name: st.text(max_size=60) for name in TEXTS},
)


@given(RECORDS, st.integers(0, 10**18))
def test_a_record_reads_back_as_written(record: AuditRecord, sequence: int) -> None:
    line, digest = chain_line(GENESIS_HASH, sequence, encode_fields(record))
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert check_line(GENESIS_HASH, sequence, line[:-1]) == digest
    parsed = parse_line(line)
    assert (parsed.sequence, parsed.record, parsed.hash) == (sequence, record, digest.hex())


@given(RECORDS)
def test_the_encoding_is_canonical(record: AuditRecord) -> None:
    line, _ = chain_line(GENESIS_HASH, 0, encode_fields(record))
    assert json.dumps(json.loads(line), separators=(",", ":")).encode() + b"\n" == line
    members = list(json.loads(line))
    order = [name for name in ("kind", *[f.name for f in fields(AuditRecord)][1:]) if name in members]
    order.remove("count") if "count" in order else None
    assert [name for name in members if name not in {"seq", "hash", "count"}] == order


@given(RECORDS, RECORDS, st.data())
def test_no_changed_byte_goes_unseen(first: AuditRecord, second: AuditRecord, data: st.DataObject) -> None:
    one, digest = chain_line(GENESIS_HASH, 0, encode_fields(first))
    two, _ = chain_line(digest, 1, encode_fields(second))
    log = bytearray(one + two)
    place = data.draw(st.integers(0, len(log) - 1))
    log[place] = data.draw(st.integers(0, 255).filter(lambda value: value != log[place]))
    with pytest.raises(IntegrityError):
        lines = bytes(log).split(b"\n")
        previous = check_line(GENESIS_HASH, 0, lines[0])
        check_line(previous, 1, lines[1])
        if len(lines) != 3 or lines[2]:
            raise IntegrityError("a newline was put in or taken out")


def test_a_record_belongs_behind_the_one_it_was_written_behind() -> None:
    record = encode_fields(AuditRecord(RecordKind.ISSUED, "t"))
    _, digest = chain_line(GENESIS_HASH, 0, record)
    line, _ = chain_line(digest, 1, record)
    with pytest.raises(IntegrityError, match="does not match its hash"):
        check_line(GENESIS_HASH, 1, line[:-1])
    with pytest.raises(IntegrityError, match="has number 1"):
        check_line(digest, 2, line[:-1])
    with pytest.raises(IntegrityError, match="does not begin at 0"):
        check_line(digest, 0, line[:-1])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[]",
        b"hello",
        b'{"seq":0,"hash":"00"}',
        b'{"seq":01,"kind":"issued","hash":"' + b"0" * 64 + b'"}',
        b'{"seq": 0,"kind":"issued","hash":"' + b"0" * 64 + b'"}',
        b'{"seq":0,"kind":"issued","hash":"' + b"A" * 64 + b'"}',
        b"\x00" * 4096,
        b"\xff\xfe" * 50,
    ],
)
def test_what_is_no_audit_line(line: bytes) -> None:
    with pytest.raises(IntegrityError, match="no audit line"):
        check_line(GENESIS_HASH, 0, line)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[1]",
        b"nonsense",
        b'{"seq":0,"hash":"x"}',
        b'{"seq":0,"kind":"issued","time":"t","hash":1}',
        b'{"seq":0,"kind":"other","time":"t","hash":"x"}',
        b'{"seq":0,"kind":"issued","time":7,"hash":"x"}',
        b'{"seq":0,"kind":"issued","time":"t","unknown":"y","hash":"x"}',
        b'{"seq":0,"kind":"suppressed","time":"t","count":"many","hash":"x"}',
    ],
)
def test_what_cannot_be_read_as_a_record(line: bytes) -> None:
    with pytest.raises(IntegrityError):
        parse_line(line)


def test_a_line_is_bounded_whatever_the_fields_hold() -> None:
    values: dict[str, Any] = dict.fromkeys(TEXTS, "\x00" * 100_000)  # Any: a value for each field by its name
    record = AuditRecord(RecordKind.REFUSED, **values)
    line, _ = chain_line(GENESIS_HASH, 10**18, encode_fields(record))
    assert len(line) < MAX_LINE_BYTES
    assert parse_line(line).record.jti == "\x00" * MAX_FIELD_CHARACTERS


def test_times_are_rfc_3339_in_utc() -> None:
    assert timestamp(0.25) == "1970-01-01T00:00:00.250Z"
    assert timestamp(1_795_441_818.9999) == "2026-11-23T13:50:18.999Z"
    assert second_stamp(1_795_441_818) == "2026-11-23T13:50:18Z"
