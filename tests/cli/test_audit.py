from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import yaml

from meshpki.ca.audit.log import AuditLog
from meshpki.ca.audit.record import AuditRecord, RecordKind, timestamp
from support import command_line

SPIFFE_ID = "spiffe://mesh.local/ns/default/sa/client"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "audit" / "issuance.jsonl"
    now = time.time()
    opened = AuditLog.open(path, trust_domain="mesh.local", issuer_key_id="ab" * 20, now=now)
    for number in range(3):
        opened.append(
            AuditRecord(RecordKind.ISSUED, timestamp(now), spiffe_id=SPIFFE_ID, serial=f"{number:032x}", peer="1.2.3.4")
        )
    opened.close(now)
    return path


def test_a_whole_log_is_whole(log: Path) -> None:
    ran = command_line.invoke("audit", "verify", str(log))
    assert (ran.code, ran.err) == (0, "")
    assert "whole" in ran.out
    assert "3 issued" in ran.out


def test_json_and_yaml_say_the_same(log: Path) -> None:
    as_json = json.loads(command_line.invoke("audit", "verify", str(log), "-o", "json").out)
    as_yaml = yaml.safe_load(command_line.invoke("audit", "verify", str(log), "-o", "yaml").out)
    assert as_json == as_yaml
    assert as_json["intact"] is True
    assert as_json["counts"]["issued"] == 3
    assert as_json["path"] == str(log)


def test_an_edited_record_is_found(log: Path) -> None:
    log.write_bytes(log.read_bytes().replace(b"sa/client", b"sa/server", 1))
    ran = command_line.invoke("audit", "verify", str(log))
    assert ran.code == 1
    assert "NOT WHOLE" in ran.out
    assert "to do" in ran.out


def test_a_noted_end_is_compared(log: Path) -> None:
    report = json.loads(command_line.invoke("audit", "verify", str(log), "-o", "json").out)
    end = f"{report['records']}:{report['last_hash']}"
    assert end in command_line.invoke("audit", "verify", str(log)).out
    assert command_line.invoke("audit", "verify", str(log), "--known", end).code == 0
    other = f"{report['records']}:{'0' * 64}"
    ran = command_line.invoke("audit", "verify", str(log), "--known", other)
    assert ran.code == 1
    assert "replaced" in " ".join(ran.out.split())


@pytest.mark.parametrize("known", ["", "x", "1:zz", ":" + "0" * 64, "²:" + "0" * 64])
def test_a_noted_end_that_is_none_is_a_usage_error(log: Path, known: str) -> None:
    ran = command_line.invoke("audit", "verify", str(log), f"--known={known}")
    assert ran.code == (2 if known else 0)


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    for command in ("verify", "tail"):
        ran = command_line.invoke("audit", command, str(tmp_path / "nothing.jsonl"))
        assert (ran.code, ran.out) == (1, "")
        assert str(tmp_path / "nothing.jsonl") in ran.err


def test_a_path_that_is_no_log_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "ca.yaml").write_text("trust_domain: mesh.local\n")
    for command, path, said in (
        ("verify", tmp_path, "Is a directory"),
        ("tail", tmp_path, "Is a directory"),
        ("verify", tmp_path / "ca.yaml", "is no audit log"),
    ):
        ran = command_line.invoke("audit", command, str(path))
        assert (ran.code, ran.out) == (1, "")
        assert said in " ".join(ran.err.split())
        assert "restore" not in ran.err


def test_tail_shows_the_last_records_oldest_first(log: Path) -> None:
    ran = command_line.invoke("audit", "tail", str(log), "-n", "2")
    assert (ran.code, ran.err) == (0, "")
    header, *rows = ran.out.splitlines()
    assert header.split() == ["RECORD", "TIME", "KIND", "IDENTITY", "DETAIL"]
    assert [row.split()[0] for row in rows] == ["4", "5"]
    assert "stopped" in rows[1]


def test_tail_as_json(log: Path) -> None:
    records = json.loads(command_line.invoke("audit", "tail", str(log), "-n", "99", "-o", "json").out)["records"]
    assert [record["sequence"] for record in records] == list(range(6))
    assert records[2]["record"]["spiffe_id"] == SPIFFE_ID


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_tail_fits_the_terminal(log: Path, columns: int) -> None:
    ran = command_line.on_terminal("audit", "tail", str(log), columns=columns)
    assert ran.code == 0
    assert command_line.widest(ran.out) <= columns
    assert SPIFFE_ID in command_line.plain(ran.out)


def test_what_a_certificate_was_renewed_from_is_shown(log: Path) -> None:
    now = time.time()
    opened = AuditLog.open(log, trust_domain="mesh.local", issuer_key_id="ab" * 20, now=now)
    opened.append(AuditRecord(RecordKind.ISSUED, timestamp(now), spiffe_id=SPIFFE_ID, serial="0b", renewed_from="0a"))
    opened.close(now)
    assert "serial 0b, renewed from 0a" in " ".join(command_line.invoke("audit", "tail", str(log)).out.split())
    records = json.loads(command_line.invoke("audit", "tail", str(log), "-o", "json").out)["records"]
    assert [line["record"]["renewed_from"] for line in records if line["record"]["kind"] == "issued"][-1] == "0a"
