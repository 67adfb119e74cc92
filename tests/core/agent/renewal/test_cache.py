"""The cache over a restart: what is believed, and every reason not to believe it."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from meshpki.agent.renewal.cache import FILE, MAX_BYTES, Cache, render
from meshpki.agent.renewal.cache_owner import subject_in
from meshpki.agent.renewal.keeper import Held
from meshpki.agent.rotation.acceptance import accept
from meshpki.agent.rotation.bundle import read_roots
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from support.agent_process import fake_token
from support.fake_ca import SPIFFE_ID, FakeAuthority

NOW = time.time()
AUTHORITY = FakeAuthority(now=NOW)
ROOTS = read_roots(AUTHORITY.roots_pem)


def make_held(authority: FakeAuthority = AUTHORITY) -> Held:
    request = new_key_request(KeyType.EC_P256)
    snapshot = accept(authority.answer(request.csr_pem), request, roots_pem=authority.roots_pem, now=NOW)
    return Held(snapshot, NOW + 1800.25)


HELD = make_held()
OTHER = make_held()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    cache = Cache(tmp_path / "cache")
    cache.store(HELD)
    return cache


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cache" / FILE


def reason(caplog: pytest.LogCaptureFixture) -> str:
    """What the one line about it says; it shows no key."""
    (record,) = [record for record in caplog.records if "not used" in record.message]
    assert "PRIVATE" not in str(vars(record))
    return f"{vars(record)['reason']}: {vars(record)['seen']}"


def test_what_was_stored_is_found_by_the_next_run(tmp_path: Path, cache: Cache, file: Path) -> None:
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    found = Cache(tmp_path / "cache").load(ROOTS, NOW)
    assert found == HELD
    assert str(HELD.snapshot.spiffe_id) == SPIFFE_ID


def test_nothing_there_is_no_reason_for_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Cache(tmp_path / "none").load(ROOTS, NOW) is None
    assert caplog.records == []


def test_a_bundle_may_be_empty_and_may_hold_more_than_the_file(cache: Cache) -> None:
    empty = replace(HELD, snapshot=replace(HELD.snapshot, bundle_pem=b""))
    cache.store(empty)
    assert cache.load(ROOTS, NOW) == empty
    more = FakeAuthority().roots_pem
    fuller = replace(HELD, snapshot=replace(HELD.snapshot, bundle_pem=HELD.snapshot.bundle_pem + more))
    cache.store(fuller)
    assert cache.load(ROOTS, NOW) == fuller


@pytest.mark.parametrize(
    ("after_its_end", "word"),
    [(0, "certificate_expired"), (86400, "certificate_expired"), (-2 * 86400, "certificate_not_yet_valid")],
)
def test_out_of_its_time(cache: Cache, after_its_end: int, word: str, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load(ROOTS, HELD.snapshot.not_after + after_its_end) is None
    assert reason(caplog).startswith(word)


def test_another_root_is_configured_now(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    """Although the cache brings its own root along: what is configured decides."""
    assert cache.load(read_roots(FakeAuthority().roots_pem), NOW) is None
    assert reason(caplog).startswith("unknown_root")


def test_no_roots_are_configured(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load((), NOW) is None
    assert reason(caplog).startswith("roots_malformed")


def test_a_key_that_is_another_certificates(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    cache.store(replace(HELD, snapshot=replace(HELD.snapshot, key_pem=OTHER.snapshot.key_pem)))
    assert cache.load(ROOTS, NOW) is None
    assert reason(caplog).startswith("other_key")


def test_no_key_and_no_chain_at_all(cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    for wrong in (
        replace(HELD.snapshot, key_pem=b"no key"),
        replace(HELD.snapshot, chain_pem=b"no chain"),
        replace(HELD.snapshot, chain_pem=b""),
        replace(HELD.snapshot, bundle_pem=b"no bundle"),
    ):
        caplog.clear()
        cache.store(replace(HELD, snapshot=wrong))
        assert cache.load(ROOTS, NOW) is None
        assert reason(caplog).startswith("chain_malformed")


CONTENT = render(HELD)


@pytest.mark.parametrize("length", [0, 1, 100, 2000, -3])
def test_half_written(cache: Cache, file: Path, length: int, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(CONTENT[:length])
    assert cache.load(ROOTS, NOW) is None
    assert "no JSON" in reason(caplog)


def altered(**changes: object) -> bytes:
    return json.dumps({**json.loads(CONTENT), **changes}).encode()


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"[]", "version"),
        (b"null", "version"),
        (b"[" * 100_000, "no JSON"),
        (altered(version=1), "version"),
        (altered(key=None), "missing"),
        (altered(chain=["x"]), "missing"),
        (altered(bundle="ü"), "missing"),
        (altered(renew_at="soon"), "missing"),
        (altered(renew_at=float("nan")), "missing"),
        (altered(renew_at=0), "digest"),
        (altered(sha256=None), "digest"),
        (altered(bundle=FakeAuthority().roots_pem.decode()), "digest"),
        (b"\xff\xfe", "no JSON"),
        (b"x" * (MAX_BYTES + 1), "larger"),
    ],
    ids=map(str, range(14)),
)
def test_corrupted(cache: Cache, file: Path, content: bytes, word: str, caplog: pytest.LogCaptureFixture) -> None:
    file.write_bytes(content)
    assert cache.load(ROOTS, NOW) is None
    assert word in reason(caplog)


def foreign_file(file: Path) -> None:
    os.chown(file, 12345, -1)


def foreign_directory(file: Path) -> None:
    os.chown(file.parent, 12345, -1)


def readable(file: Path) -> None:
    file.chmod(0o640)


def open_directory(file: Path) -> None:
    file.parent.chmod(0o750)


def linked_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))
    file.parent.symlink_to("elsewhere")


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o600)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (foreign_file, "belongs to user 12345"),
        (foreign_directory, "belongs to user 12345"),
        (readable, "0640"),
        (open_directory, "0750"),
        (linked_directory, "symbolic link"),
        (a_directory, "could not read"),
    ],
)
def test_not_ours_alone(
    cache: Cache, file: Path, spoil: Callable[[Path], None], word: str, caplog: pytest.LogCaptureFixture
) -> None:
    if spoil in {foreign_file, foreign_directory} and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    spoil(file)
    assert cache.load(ROOTS, NOW) is None
    assert word in reason(caplog)


def test_what_cannot_be_written_is_said_once_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "cache"
    directory.write_text("in the way")
    cache = Cache(directory)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            cache.store(HELD)
    assert len([record for record in caplog.records if "could not be written" in record.message]) == 1
    directory.unlink()
    cache.store(HELD)
    assert cache.load(ROOTS, NOW) == HELD


def test_the_same_is_not_written_twice(cache: Cache, file: Path) -> None:
    before = file.stat().st_ino
    cache.store(HELD)
    assert file.stat().st_ino == before
    cache.store(OTHER)
    assert file.stat().st_ino != before


def test_what_went_away_beneath_is_written_with_the_next_change(cache: Cache, file: Path) -> None:
    file.unlink()
    cache.store(OTHER)
    assert cache.load(ROOTS, NOW) == OTHER


MINE = "system:serviceaccount:default:web"


@pytest.mark.parametrize("said", [MINE, None], ids=["its-token", "no-token"])
def test_served_to_whom_its_token_speaks_for(cache: Cache, said: str | None) -> None:
    assert cache.load(ROOTS, NOW, said) == HELD


@pytest.mark.parametrize(
    "said",
    [
        "system:serviceaccount:default:api",
        "system:serviceaccount:other:web",
        "system:serviceaccount:default:web:x",
        "web",
        SPIFFE_ID,
        "",
    ],
)
def test_another_workloads_is_not_used(cache: Cache, said: str, caplog: pytest.LogCaptureFixture) -> None:
    assert cache.load(ROOTS, NOW, said) is None
    assert "another account's" in reason(caplog)


def test_an_identity_that_no_token_can_be_told_to_speak_for_is_not_used(
    cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    request = new_key_request(KeyType.EC_P256)
    answer = AUTHORITY.answer(request.csr_pem, uri="spiffe://mesh.test/default/web")
    cache.store(Held(accept(answer, request, roots_pem=AUTHORITY.roots_pem, now=NOW), NOW + 1800))
    assert cache.load(ROOTS, NOW, None) is None
    assert "another account's" in reason(caplog)


def test_of_another_ca_it_is_not_used(tmp_path: Path, cache: Cache, caplog: pytest.LogCaptureFixture) -> None:
    assert Cache(tmp_path / "cache", "ca.other:15012 ca.other c").load(ROOTS, NOW, MINE) is None
    assert "another CA" in reason(caplog)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_below_a_directory_that_is_not_ours_it_is_not_used(tmp_path: Path) -> None:
    """In a process that is not root: no directory is closed to root."""
    (tmp_path / "closed").mkdir(mode=0o700)
    script = (
        "import logging, os, sys; from pathlib import Path; from meshpki.agent.renewal.cache import Cache;"
        "cache = Cache(Path(sys.argv[1])); logging.basicConfig(format='%(message)s: %(reason)s: %(seen)s');"
        "os.setgid(65534); os.setuid(65534); assert cache.load((), 0) is None"
    )
    argv = [sys.executable, "-c", script, str(tmp_path / "closed" / "cache")]
    found = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)
    assert (found.returncode, found.stdout) == (0, "")
    assert "is not used: cache: could not look for" in found.stderr
    assert "Permission denied" in found.stderr


def test_a_file_in_place_of_the_directory_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "cache").write_text("in the way")
    assert Cache(tmp_path / "cache").load(ROOTS, NOW) is None
    assert "could not look for" in reason(caplog)


@pytest.mark.parametrize("expires_at", [NOW + 600, NOW - 600, None], ids=["valid", "expired", "endless"])
def test_an_expired_token_says_its_subject_still(tmp_path: Path, expires_at: float | None) -> None:
    file = tmp_path / "token"
    file.write_text(fake_token(expires_at=expires_at) + "\n")
    assert subject_in(file) == MINE


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, None),
        ("", None),
        ("no token", None),
        ("e30.eyJzdWIiOiJ.x", None),
        ("e30.W10.x", None),
        ("e30.e30.x", ""),
        ("e30.eyJzdWIiOjF9.x", ""),
        ("a" * 20_000, None),
    ],
    ids=map(str, range(8)),
)
def test_what_says_no_subject(tmp_path: Path, content: str | None, said: str | None) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    assert subject_in(file) == said


def test_no_key_in_a_repr() -> None:
    key: Any = HELD.snapshot.key_pem.decode()
    assert key.splitlines()[1] not in repr(HELD)
