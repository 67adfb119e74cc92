"""The configured roots followed: good contents are taken, bad ones are said and change nothing."""

from __future__ import annotations

import asyncio
import logging
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from meshpki.agent.renewal.roots_file import RootsFile
from meshpki.agent.rotation.bundle import read_roots
from meshpki.runtime.watch import Watcher
from support.fake_ca import make_ca

A, B = (make_ca(f"root {name}").pem.encode() for name in "ab")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "roots.pem"
    path.write_bytes(A)
    return path


def following(path: Path, scene: Callable[[RootsFile], Awaitable[None]]) -> None:
    async def main() -> None:
        watcher = Watcher()
        roots = RootsFile(path, watcher)
        task = asyncio.create_task(roots.run())
        await asyncio.sleep(0)
        try:
            await scene(roots)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            watcher.close()

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(roots: RootsFile, content: bytes) -> None:
    async with asyncio.timeout(20):
        while roots.current != read_roots(content):
            await roots.changes()


def test_every_good_content_is_taken_within_a_second(path: Path) -> None:
    async def scene(roots: RootsFile) -> None:
        await until(roots, A)
        took = []
        for content in (A + B, B, A, A + B, B):
            began = time.monotonic()
            if content == B:
                path.unlink()
            path.write_bytes(content)
            await until(roots, content)
            took.append(time.monotonic() - began)
        assert statistics.median(took) < 1, "the machine of the tests may stand still now and then, but not each time"

    following(path, scene)


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", A[:-20], A + B[:300], b"x" * 2_000_000],
    ids=["empty", "garbage", "cut", "the second cut", "monstrous"],
)
def test_a_bad_content_changes_nothing_and_is_said_once(
    path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(roots: RootsFile) -> None:
        await until(roots, A)
        path.write_bytes(content)
        for _ in range(3):
            roots.reload()
        assert roots.current == read_roots(A)
        path.write_bytes(B)
        await until(roots, B)

    with caplog.at_level(logging.WARNING):
        following(path, scene)
    (said,) = [record for record in caplog.records if "no good" in record.message]
    assert vars(said)["held"] == 1


def test_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    path = tmp_path / "later" / "roots.pem"

    async def scene(roots: RootsFile) -> None:
        assert roots.current == ()
        path.parent.mkdir()
        path.write_bytes(A)
        await until(roots, A)

    following(path, scene)


def test_refresh_costs_a_look_and_reads_only_what_is_new(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = Watcher()
    roots = RootsFile(path, watcher)
    roots.refresh()
    assert roots.current == read_roots(A)
    reads: list[Path] = []

    def count(path: Path, *, limit: int) -> bytes:
        reads.append(path)
        return path.read_bytes()

    monkeypatch.setattr("meshpki.agent.renewal.roots_file.read_capped", count)
    roots.refresh()
    assert reads == []
    path.write_bytes(A + B)
    roots.refresh()
    assert len(reads) == 1
    assert roots.current == read_roots(A + B)


def test_the_same_roots_in_other_words_are_no_change(path: Path) -> None:
    async def scene(roots: RootsFile) -> None:
        await until(roots, A)
        changed = roots.changes()
        path.write_bytes(b"# ours\n" + A + A)
        roots.reload()
        assert not changed.done()

    following(path, scene)
