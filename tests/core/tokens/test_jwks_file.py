"""Keys out of a file: read again when it changes, kept for a while when it breaks."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

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
    from collections.abc import Iterator, Sequence
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


# --- a file system that hangs


@pytest.fixture
def hung(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileKeySource]:
    """One that knows its keys, while whoever looks at the file has not come back for a while."""
    source = FileKeySource(path, stale_seconds=100)
    assert kids(source) == ["old"]
    look, came, go = source._look, threading.Event(), threading.Event()

    def hangs(*args: Any) -> Any:  # Any: as they are
        came.set()
        assert go.wait(60)
        return look(*args)

    monkeypatch.setattr(source, "_look", hangs)
    watcher = threading.Thread(target=source.look, args=(NOW + 2,))
    watcher.start()
    assert came.wait(60)
    source._began = time.monotonic() - 1.5
    yield source
    go.set()
    watcher.join(60)
    assert not watcher.is_alive()
    write_atomically(source._path, NEW.jwks())
    assert kids(source, "new", NOW + 200) == ["new"], "once it answers it is as ever"


def test_while_the_file_system_hangs_nobody_waits_and_the_last_keys_are_used(
    hung: FileKeySource, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        assert kids(hung, "old", NOW + 5) == ["old"]
        assert hung.at_once("old", NOW + 5)
        assert hung.at_once("unknown", NOW + 5), "a look for it would not come back"
        hung.look(NOW + 5)
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said == ["keys kept as they were: the file system of the JWKS hangs"]


def test_while_it_hangs_an_unknown_kid_is_not_refused_and_old_keys_are_not_believed_for_ever(
    hung: FileKeySource,
) -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        kids(hung, "unknown", NOW + 5)
    hung._began = time.monotonic() - 101
    with pytest.raises(UnavailableError, match="does not answer"):
        kids(hung, "old", NOW + 200)


def test_a_call_need_not_look_where_somebody_has_just_looked(path: Path) -> None:
    source = FileKeySource(path)
    assert not source.at_once(None, NOW)
    source.look(NOW)
    for moment in (NOW - 0.5, NOW, NOW + 0.9):  # it may have come before the look
        assert source.at_once("old", moment)
        assert not source.at_once("unknown", moment), "for that a look is due"
    assert not source.at_once("old", NOW + 1)
