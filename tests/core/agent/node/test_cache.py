"""A node's cache on a disk: private, whole, bounded; every reason not to believe what stands in an entry's place."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from meshpki.agent.node.actions import TokenKey
from meshpki.agent.node.cache import NodeCache
from meshpki.agent.node.cache_entry import MAX_BYTES, Bounds, render
from meshpki.agent.node.config import NodeConfig
from meshpki.agent.node.run import _cache as line_of
from meshpki.agent.renewal.cache import CacheError
from meshpki.agent.renewal.keeper import Held
from meshpki.agent.rotation.acceptance import accept
from meshpki.agent.rotation.bundle import read_roots
from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.errors import MachineError
from meshpki.runtime import files
from support.fake_ca import FakeAuthority

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOW = time.time()
AUTHORITY = FakeAuthority(now=NOW)
ROOTS = read_roots(AUTHORITY.roots_pem)
ENDS = int(NOW) + 1000
BOUNDS = Bounds(8, 8 * MAX_BYTES)


def key(name: str) -> TokenKey:
    return TokenKey(hashlib.sha256(name.encode()).digest())


KEY, OTHER = key("one"), key("other")


def make_held() -> Held:
    request = new_key_request(KeyType.EC_P256)
    snapshot = accept(AUTHORITY.answer(request.csr_pem), request, roots_pem=AUTHORITY.roots_pem, now=NOW)
    return Held(snapshot, NOW + 500)


HELD = make_held()


@pytest.fixture
def cache(tmp_path: Path) -> NodeCache:
    cache = NodeCache(tmp_path / "cache", BOUNDS)
    cache.store(KEY, ENDS, HELD, NOW)
    return cache


def names(path: Path) -> set[str]:
    return {file.name for file in path.iterdir()}


def test_what_was_stored_is_found_by_the_next_run(tmp_path: Path, cache: NodeCache) -> None:
    file = cache.path(KEY)
    assert names(tmp_path / "cache") == {file.name}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    after = NodeCache(tmp_path / "cache", BOUNDS)
    assert after.has(KEY)
    assert after.load(KEY, ENDS, ROOTS, NOW) == HELD
    assert not after.has(OTHER)


@pytest.mark.parametrize(
    "change",
    [{"ca_address": "ca:2"}, {"ca_server_name": "other"}, {"cluster": "other"}],
    ids=["address", "name", "cluster"],
)
def test_an_entry_of_another_ca_is_not_used(
    tmp_path: Path, change: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = NodeConfig("ca:1", tmp_path / "roots", "ca", tmp_path / "sds.sock", cache=tmp_path / "cache")

    async def held(now: NodeConfig) -> Held | None:
        line = line_of(now)
        assert line is not None
        line.keep(KEY, ENDS, HELD if now is config else None, NOW)
        read = line.earlier(KEY, ENDS, ROOTS, NOW)
        found = await read() if read is not None else None
        await asyncio.to_thread(line.close)
        return found

    async def scene() -> None:
        await held(config)
        assert await held(replace(config)) == HELD
        assert await held(replace(config, **change)) is None

    asyncio.run(scene())
    assert "another CA" in str([vars(record).get("seen") for record in caplog.records])


def test_an_entry_under_another_tokens_name_is_not_that_tokens(cache: NodeCache) -> None:
    cache.path(KEY).rename(cache.path(OTHER))
    with pytest.raises(CacheError, match="another token's"):
        cache.load(OTHER, ENDS, ROOTS, NOW)


def linked(file: Path) -> None:
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def linked_directory(file: Path) -> None:
    file.parent.rename(file.parent.with_name("elsewhere"))
    file.parent.symlink_to("elsewhere")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


def a_directory(file: Path) -> None:
    file.unlink()
    file.mkdir(mode=0o700)


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


SPOILT: list[tuple[Callable[[Path], object], str]] = [
    (linked, "symbolic link"),
    (linked_directory, "symbolic link"),
    (cut, "digest"),
    (lambda file: file.write_bytes(b""), "version"),
    (lambda file: file.write_bytes(b"x" * (MAX_BYTES + 1)), "larger"),
    (lambda file: file.chmod(0o640), "0640"),
    (lambda file: file.parent.chmod(0o1777), "1777|0777"),
    (a_directory, "others can read|could not read"),
    (a_pipe, "no regular file"),
]
if os.geteuid() == 0:
    SPOILT += [
        (lambda file: os.chown(file, 12345, -1), "user 12345"),
        (lambda file: os.chown(file.parent, 12345, -1), "user 12345"),
    ]


@pytest.mark.parametrize(("spoil", "word"), SPOILT, ids=map(str, range(len(SPOILT))))
def test_what_is_spoilt_is_not_believed(cache: NodeCache, spoil: Callable[[Path], object], word: str) -> None:
    spoil(cache.path(KEY))
    with pytest.raises((CacheError, MachineError)) as caught:
        cache.load(KEY, ENDS, ROOTS, NOW)
    said = caught.value.seen if isinstance(caught.value, MachineError) else str(caught.value)
    assert any(one in said for one in word.split("|")), said


def test_a_directory_of_others_is_not_written_to_and_that_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    directory = tmp_path / "cache"
    directory.mkdir()
    directory.chmod(0o777)
    cache = NodeCache(directory, BOUNDS)
    with caplog.at_level(logging.WARNING):
        for name in "abc":
            cache.store(key(name), ENDS, HELD, NOW)
    assert names(directory) == set()
    assert len(caplog.records) == 1
    directory.chmod(0o700)
    cache.store(KEY, ENDS, HELD, NOW)
    assert cache.load(KEY, ENDS, ROOTS, NOW) == HELD


def test_a_refused_tokens_entry_is_gone(cache: NodeCache, caplog: pytest.LogCaptureFixture) -> None:
    cache.remove(KEY)
    cache.remove(OTHER)
    assert not cache.has(KEY)
    assert caplog.records == []


def test_what_is_over_is_removed_and_nothing_of_others(cache: NodeCache) -> None:
    directory = cache.path(KEY).parent
    cache.store(OTHER, ENDS + 100_000, HELD, NOW)
    (directory / "identity.json").write_bytes(b"pod mode's")
    half = directory / f".{cache.path(KEY).name}.77.01234567.new"
    half.write_bytes(b"half")
    os.utime(half, (NOW, NOW))
    cache.path(key("link")).symlink_to(directory / "identity.json")
    os.utime(directory / "identity.json", (0, 0))
    os.utime(cache.path(key("link")), (0, 0), follow_symlinks=False)
    cache.sweep(NOW + 1)  # not the time of day: the modules of a long run were imported long ago
    assert names(directory) == {cache.path(KEY).name, cache.path(OTHER).name, "identity.json"}
    cache.sweep(ENDS)
    assert names(directory) == {cache.path(OTHER).name, "identity.json"}
    cache.sweep(HELD.snapshot.not_after)
    assert names(directory) == {"identity.json"}


def test_an_entry_is_not_over_where_the_agent_was_killed_as_soon_as_it_was_there(
    tmp_path: Path, cache: NodeCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the file's time says has to be true at once: the next run sweeps before it reads."""

    class Killed(BaseException):
        pass

    def kill(directory: Path) -> None:
        raise Killed(directory)

    monkeypatch.setattr(files, "sync_directory", kill)
    with pytest.raises(Killed):
        cache.store(OTHER, ENDS, HELD, NOW)
    after = NodeCache(tmp_path / "cache", BOUNDS)
    after.sweep(NOW + 1)
    assert after.load(OTHER, ENDS, ROOTS, NOW) == HELD


def test_nothing_there_is_swept_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    NodeCache(tmp_path / "none", BOUNDS).sweep(NOW)
    assert caplog.records == []
    assert not (tmp_path / "none").exists()


def test_there_are_never_more_than_so_many_and_who_lasts_longest_stays(tmp_path: Path) -> None:
    directory = tmp_path / "cache"
    for run in range(3):  # a new run does not know what is there
        cache = NodeCache(directory, BOUNDS)
        for number in range(10):
            cache.store(key(f"{run}.{number}"), ENDS + 10 * run + number, HELD, NOW)
            assert len(names(directory)) <= BOUNDS.entries
            assert cache.has(key(f"{run}.{number}"))


def test_there_are_never_more_than_so_many_bytes(tmp_path: Path) -> None:
    size = len(render(KEY, ENDS, HELD))
    cache = NodeCache(tmp_path / "cache", Bounds(1000, MAX_BYTES + 3 * size))
    for number in range(20):
        cache.store(key(str(number)), ENDS + number, HELD, NOW)
        assert sum(file.stat().st_size for file in (tmp_path / "cache").iterdir()) <= MAX_BYTES + 3 * size
    assert cache.has(key("19"))


def test_what_is_too_large_is_not_written(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from dataclasses import replace

    cache = NodeCache(tmp_path / "cache", BOUNDS)
    cache.store(KEY, ENDS, replace(HELD, snapshot=replace(HELD.snapshot, bundle_pem=b"x" * MAX_BYTES)), NOW)
    assert not cache.has(KEY)
    assert "too large" in str(vars(caplog.records[0])["seen"])
