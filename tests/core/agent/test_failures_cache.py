"""Agents killed and started again while CA and token are away: what the cache is good for, and what is not believed."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509

from support.crowd import Crowd, Orders, Places, ScriptedCa, Watch, all_in, look_once, places, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("failures-cache")]

GOOD, EXPIRED = "good", "expired"
OTHER_ROOTS = "other-roots"
SHORT_LIFE = 3.0
SOMEBODY_ELSE = 12345


def cache_file(at: Places, name: str) -> Path:
    return at[name].directory / "cache" / "identity.json"


def half_written(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def one_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    middle = content.index(b"BEGIN CERTIFICATE") + 100
    content[middle] ^= 1
    file.write_bytes(content)


def readable_by_others(file: Path) -> None:
    file.chmod(0o644)


def open_directory(file: Path) -> None:
    file.parent.chmod(0o755)


def foreign(file: Path) -> None:
    os.chown(file, SOMEBODY_ELSE, SOMEBODY_ELSE)


def symlinked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("nowhere-at-all")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "half-written": half_written,
    "empty": empty,
    "one-bit": one_bit,
    "readable-by-others": readable_by_others,
    "open-directory": open_directory,
    "dangling-symlink": symlinked,
}
if os.geteuid() == 0:
    DAMAGE["foreign"] = foreign
SILENT = {"dangling-symlink"}
"""What is simply not there needs no word."""


@dataclass
class Record:
    """What happened, by agent."""

    places: Places
    second: Crowd
    before: dict[str, int]
    """Serials that were served before the kill."""
    looked: dict[str, list[Any]] = field(default_factory=dict)  # Any: Look
    states: dict[str, str] = field(default_factory=dict)
    readiness: dict[str, tuple[int, str]] = field(default_factory=dict)
    sockets: dict[str, bool] = field(default_factory=dict)
    healed: dict[str, int] = field(default_factory=dict)


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    with places() as at, ScriptedCa() as ca:
        names = [GOOD, EXPIRED, OTHER_ROOTS, *DAMAGE]
        ca.orders = {EXPIRED: Orders(life=SHORT_LIFE)}
        configs = {
            name: at.agent(name, ca, cache=at.root / name / "cache", http="127.0.0.1:0", call_seconds=1.0)
            for name in names
        }
        with Crowd(configs, at.root / "first.log") as first:
            all_in(at, names, "fresh")
            until(lambda: all(cache_file(at, name).exists() for name in names), "caches")
            before = {name: look_once(at[name].socket) for name in names}
            first.kill()
        ca.stop()
        _make_things_worse(at)
        second = Crowd(configs, at.root / "second.log")
        kept = Record(at, second, {name: look.serial for name, look in before.items()})
        with second, Watch({GOOD: at[GOOD].socket}, every=0.02) as watch:
            until(lambda: any(look.valid for look in watch.of(GOOD)), "served from the cache")
            all_in(at, [GOOD], "fresh")  # a moment later: the files come after the socket
            all_in(at, [name for name in names if name != GOOD], "failed")
            kept.looked[GOOD] = watch.of(GOOD)
            for name in names:
                kept.states[name] = at.state(name)
                kept.readiness[name] = second.page(name, "/readyz")
                kept.sockets[name] = look_once(at[name].socket).valid
            ca.orders = {}
            ca.start()
            for name in names:
                at[name].roots.write_bytes(ca.authority.roots_pem)
                at[name].write_token(expires_at=time.time() + 3600)
            all_in(at, names, "fresh")
            until(lambda: all(look_once(at[name].socket).valid for name in names), "all are served")
            kept.healed = {name: look_once(at[name].socket).serial for name in names}
        yield kept


def expiry(cache: Path) -> float:
    """The end of the certificate that is kept there."""
    text: str = json.loads(cache.read_bytes())["chain"]
    return x509.load_pem_x509_certificate(text.encode()).not_valid_after_utc.timestamp()


def _make_things_worse(at: Places) -> None:
    """No CA, no tokens, damaged caches; and for the one that is to expire, time."""
    from support.fake_ca import FakeAuthority

    for files in at.made.values():
        files.token.unlink()
    for name, damage in DAMAGE.items():
        damage(cache_file(at, name))
    at[OTHER_ROOTS].roots.write_bytes(FakeAuthority().roots_pem)
    ends = expiry(cache_file(at, EXPIRED))  # it may have been renewed until the very end
    until(lambda: time.time() > ends, "the short certificate's end")


def test_a_good_cache_is_served_at_once_with_everything_else_away(record: Record) -> None:
    first = next(look for look in record.looked[GOOD] if not look.error)
    assert first.valid
    assert first.serial == record.before[GOOD]
    assert record.readiness[GOOD] == (200, "ok\n")
    assert record.states[GOOD] == "fresh"
    assert record.healed[GOOD] == record.before[GOOD], "not due yet: the CA is left in peace after an outage"
    said = [line for line in record.second.lines(GOOD) if "earlier run" in line["message"]]
    assert [line["message"] for line in said] == ["a certificate of an earlier run is served"]


@pytest.mark.parametrize("name", [EXPIRED, OTHER_ROOTS, *DAMAGE])
def test_what_cannot_be_believed_is_not_served_and_the_reason_is_said(record: Record, name: str) -> None:
    assert not record.sockets[name]
    assert record.states[name] == "failed"
    assert record.readiness[name][0] == 503
    said = [line for line in record.second.lines(name) if "cache is not used" in line["message"]]
    assert len(said) == (0 if name in SILENT else 1)
    assert all(line["level"] == "warning" and line["reason"] and line["seen"] for line in said)
    assert record.healed[name] not in {0, record.before[name]}


def test_no_key_is_in_what_was_said_about_damaged_caches(record: Record) -> None:
    log = (record.places.root / "second.log").read_text()
    assert "PRIVATE KEY" not in log
    for name in record.places.made:
        file = cache_file(record.places, name)
        key = json.loads(file.read_text())["key"] if file.is_file() else ""
        assert not any(line in log for line in key.splitlines() if len(line) > 40)
    assert record.second.tracebacks() == []


def test_caches_are_written_anew_and_private(record: Record) -> None:
    for name in {*record.places.made} - {"open-directory"}:
        status = cache_file(record.places, name).stat()
        assert (status.st_mode & 0o777, status.st_uid) == (0o600, os.geteuid()), name
