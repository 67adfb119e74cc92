"""What is said to be missing, and what a status file is worth; by table, without a process."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from meshpki.hooks import Health
from meshpki.identity import ServiceAccountRef
from meshpki_local import agent_status, run_file
from meshpki_local.agent_status import AgentStatus
from meshpki_local.children import ChildSpec
from meshpki_local.judgement import HOPELESS_FAILURES, Seen, is_hopeless, not_healthy
from meshpki_local.run_file import ChildRecord, RunRecord
from meshpki_local.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_800_000_000.0
WEB = ServiceAccountRef("default", "web")
SETTINGS = Settings(workloads=(WEB,))
WANTED = (ChildSpec("ca", (), "f0", 0), ChildSpec("agent-default.web", (), "f1", 1))
CA = ChildRecord("ca", "running", 10, 100, "f0", int(NOW) - 50, 0, 0, "")
AGENT = ChildRecord("agent-default.web", "running", 11, 101, "f1", int(NOW) - 50, 0, 0, "")
RECORD = RunRecord(9, 99, "boot", "1.0", int(NOW) - 60, (AGENT, CA))
STATUS = AgentStatus(Health.FRESH, "spiffe://mesh.local/ns/default/sa/web", int(NOW) + 60, "", NOW - 10)
SEEN = Seen(RECORD, True, {WEB: STATUS}, {"agent-default.web": NOW - 50}, NOW)


def status(**changes: Any) -> Seen:  # Any: fields by name
    return replace(SEEN, statuses={WEB: replace(STATUS, **changes)})


def record(**changes: Any) -> Seen:  # Any: fields by name
    return replace(SEEN, record=replace(RECORD, **changes))


WAITING = replace(AGENT, phase="waiting", pid=0, failures=2, reason="exit status 1")

TABLE: dict[str, tuple[Seen, str]] = {
    "all is well": (SEEN, ""),
    "no word yet": (replace(SEEN, record=None), "the supervisor has not said"),
    "another version": (record(version="0.9"), "version 0.9"),
    "not started": (record(children=(CA,)), "agent-default.web is not started"),
    "failing": (record(children=(CA, WAITING)), "failure 2: exit status 1"),
    "stopping": (record(children=(CA, replace(AGENT, phase="stopping"))), "agent-default.web is stopping"),
    "another configuration": (record(children=(replace(CA, fingerprint="x"), AGENT)), "another configuration"),
    "one too many": (record(children=(CA, AGENT, replace(AGENT, name="agent-x.y"))), "agent-x.y still runs"),
    "a problem": (record(problems=("disk full",)), "disk full"),
    "the CA is not ready": (replace(SEEN, ca_ready=False), "the CA is not ready"),
    "no status": (replace(SEEN, statuses={WEB: None}), "default/web has no certificate"),
    "a status of an earlier run": (status(written_at=NOW - 51), "default/web has no certificate"),
    "a status of the first tick": (status(written_at=NOW - 50.05), ""),
    "overdue": (status(health=Health.OVERDUE, failure="CA away"), "overdue: CA away"),
    "expired, whatever it says": (status(not_after=int(NOW)), "is expired"),
    "another identity": (status(spiffe_id="spiffe://mesh.local/ns/a/sa/b"), "a certificate for spiffe://"),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_is_missing(name: str) -> None:
    seen, words = TABLE[name]
    missing = not_healthy(seen, WANTED, SETTINGS, "1.0")
    assert bool(missing) == bool(words)
    assert words in "; ".join(missing)


def test_waiting_ends_when_it_tells_nothing_new() -> None:
    assert not is_hopeless(None)
    assert not is_hopeless(RECORD)
    assert is_hopeless(replace(RECORD, children=(CA, replace(WAITING, failures=HOPELESS_FAILURES))))


GOOD = {
    "state": "fresh",
    "spiffe_id": "spiffe://a/b",
    "not_after": 5,
    "last_failure": None,
    "serial": "1",
    "renew_at": 3,
}


def test_a_status_is_read() -> None:
    said = {**GOOD, "state": "denied", "last_failure": {"seen": "no", "reason": "token_expired", "kind": "denied"}}
    assert agent_status.parse(json.dumps(GOOD).encode(), 7.0) == AgentStatus(Health.FRESH, "spiffe://a/b", 5, "", 7.0)
    read = agent_status.parse(json.dumps(said).encode(), 7.0)
    assert read is not None
    assert read.failure == "no (token_expired)"


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b"\xff", json.dumps({**GOOD, "state": "magic"}).encode(), b'{"state": "fresh"}'],
)
def test_what_is_no_status_is_none(content: bytes) -> None:
    assert agent_status.parse(content, 7.0) is None


def test_a_run_file_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.json"
    assert run_file.read(path) is None
    here = replace(RECORD, boot=run_file.boot_id())
    run_file.write(path, here)
    assert path.stat().st_mode & 0o777 == 0o600
    assert run_file.read(path) == here


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"pid": []}', b"\xff"])
def test_a_broken_run_file_is_as_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "supervisor.json"
    path.write_bytes(content)
    assert run_file.read(path) is None


def test_the_run_file_of_another_boot_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "supervisor.json"
    run_file.write(path, replace(RECORD, boot="another"))
    assert run_file.read(path) is None
