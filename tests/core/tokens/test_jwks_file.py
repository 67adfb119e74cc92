"""Keys out of a file: read again when it changes, kept for a while when it breaks."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import UnavailableError
from meshpki.runtime.files import write_atomically
from meshpki.tokens.jwks import FileKeySource
from meshpki.tokens.keys import MAX_JWKS_BYTES
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from meshpki.tokens.trusted_cluster import TrustedCluster
from meshpki.tokens.verify import TokenVerifier
from support.tokens import NOW, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

OLD = TokenMaker(kid="old")
NEW = TokenMaker(kid="new", slot=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    write_atomically(path, OLD.jwks())
    return path


def kids(source: FileKeySource, kid: str | None = None, now: float = NOW) -> Sequence[str | None]:
    return [key.kid for key in source.keys(kid, now)]


def test_reads(path: Path) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    assert kids(source, "old") == ["old"]
    assert kids(source, "other") == []


def test_an_unknown_kid_looks_at_once(path: Path) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    write_atomically(path, OLD.jwks(NEW))
    assert kids(source, "new") == ["new"]


def test_a_removed_key_is_gone_within_a_second(path: Path) -> None:
    source = FileKeySource(path)
    assert kids(source, "old") == ["old"]
    write_atomically(path, NEW.jwks())
    assert kids(source, "old", NOW + 0.9) == ["old"]
    assert kids(source, "old", NOW + 1) == []


def test_a_clock_that_went_back_looks_again(path: Path) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    write_atomically(path, NEW.jwks())
    assert kids(source, "old", NOW - 1000) == []


def test_rewritten_in_place_with_the_same_size(path: Path) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    status = path.stat()
    path.write_bytes(TokenMaker(kid="wol").jwks())
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    assert kids(source, None, NOW + 2) == ["wol"]


def test_unchanged_is_not_read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    monkeypatch.setattr("meshpki.tokens.jwks.read_capped", None)
    assert kids(source, "other", NOW + 100) == []


@pytest.mark.parametrize(
    "broken", [b"", b"{", b'{"keys":5}', b" " * (MAX_JWKS_BYTES + 1), OLD.jwks(TokenMaker(kid="old", slot=1))]
)
def test_a_broken_file_keeps_the_last_good_keys_for_a_while(
    path: Path, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    source = FileKeySource(path, stale_seconds=100)
    assert kids(source) == ["old"]
    write_atomically(path, broken)
    for now in (NOW + 1, NOW + 50, NOW + 101):
        assert kids(source, "old", now) == ["old"]
    assert [record.levelname for record in caplog.records if "broken" in record.message] == ["WARNING"]
    with pytest.raises(UnavailableError, match="no current keys"):
        kids(source, "old", NOW + 101.1)
    write_atomically(path, NEW.jwks())
    assert kids(source, "new", NOW + 102) == ["new"]


def test_an_unknown_kid_is_not_refused_while_the_file_is_broken(path: Path) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    path.unlink()
    with pytest.raises(UnavailableError):
        kids(source, "new", NOW + 1)
    assert kids(source, "old", NOW + 1) == ["old"]


def test_no_file_at_all(tmp_path: Path) -> None:
    path = tmp_path / "jwks.json"
    source = FileKeySource(path)
    with pytest.raises(UnavailableError, match=r"jwks\.json"):
        kids(source)
    write_atomically(path, OLD.jwks())
    assert kids(source) == ["old"]


def test_no_regular_file(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError):
        kids(FileKeySource(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_be_read_again(path: Path) -> None:
    path.chmod(0)
    source = FileKeySource(path)
    with pytest.raises(UnavailableError):
        kids(source)
    path.chmod(0o600)
    assert kids(source) == ["old"]


def test_a_change_of_mode_alone_is_a_change(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = FileKeySource(path)
    assert kids(source) == ["old"]
    path.chmod(0o644)
    monkeypatch.setattr("meshpki.tokens.jwks.read_capped", lambda *_args, **_keywords: NEW.jwks())
    assert kids(source, None, NOW + 2) == ["new"]


def test_keys_that_are_left_out_are_said(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_atomically(path, OLD.jwks().replace(b'"use":"sig"', b'"use":"enc"'))
    assert kids(FileKeySource(path)) == []
    assert any("left out" in record.message and "use" in str(vars(record)["why"]) for record in caplog.records)


def test_an_empty_set_refuses_and_is_not_unavailable(path: Path) -> None:
    write_atomically(path, b'{"keys":[]}')
    check = TokenVerifier([TrustedCluster(ClusterPolicy("c1", OLD.issuer), FileKeySource(path))])
    with pytest.raises(TokenRefusedError) as caught:
        check.verify(OLD.token(), NOW)
    assert caught.value.reason is TokenReason.UNKNOWN_KEY


def test_many_threads_see_whole_sets_while_the_file_is_replaced(path: Path) -> None:
    source, stop, wrong = FileKeySource(path), threading.Event(), []

    def read() -> None:
        now = float(NOW)
        while not stop.is_set():
            now += 2
            seen = tuple(kids(source, None, now))
            if seen not in {("old",), ("new",)}:
                wrong.append(seen)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for turn in range(200):
        write_atomically(path, (NEW if turn % 2 == 0 else OLD).jwks())
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
