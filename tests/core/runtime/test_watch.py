"""Watched files: replaced in every way that kubelets, editors and configuration tools know, and without inotify."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from inotify_simple import INotify, flags

import meshpki.runtime.watch as watch_module
from meshpki.runtime.watch import Watch, Watcher, fingerprint, steps

NEVER = 3600.0
"""Seconds for timers that must not be what notices a change."""
SOON = 30.0


def only_inotify() -> Watcher:
    return Watcher(poll_seconds=NEVER, safety_seconds=NEVER)


def no_instances() -> INotify:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


class NoWatches(INotify):  # type: ignore[misc]  # the library has no types
    def add_watch(self, path: object, mask: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def only_polling(new_inotify: Callable[[], INotify] = no_instances) -> Watcher:
    return Watcher(new_inotify=new_inotify, poll_seconds=0.02, safety_seconds=NEVER)


Scene = Callable[[Watch], Awaitable[None]]


def watching(path: Path, scene: Scene, watcher: Callable[[], Watcher] = only_inotify) -> None:
    async def main() -> None:
        watcher_ = watcher()
        try:
            await scene(watcher_.watch(path))
        finally:
            watcher_.close()

    asyncio.run(asyncio.wait_for(main(), 120))


async def noticed(watch: Watch, change: Callable[[], object], *, seconds: float = SOON) -> bool:
    future = watch.changes()
    change()
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)


def put(path: Path, text: str) -> None:
    """By rename, as everybody should."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)


def swap(volume: Path, text: str, name: str = "token") -> None:
    """What a kubelet does: a new directory, the link `..data` renamed onto the old one, the old directory removed."""
    data = volume / "..data"
    old = volume / data.readlink() if data.is_symlink() else None
    fresh = volume / f"..{text}"
    fresh.mkdir()
    (fresh / name).write_text(text)
    (volume / "..data_tmp").symlink_to(fresh.name)
    (volume / "..data_tmp").replace(data)
    if not (volume / name).is_symlink():
        (volume / name).symlink_to(f"..data/{name}")
    if old is not None:
        (old / name).unlink()
        old.rmdir()


@pytest.fixture(params=["inotify", "no instances", "no watches"])
def watcher(request: pytest.FixtureRequest) -> Callable[[], Watcher]:
    ways: dict[str, Callable[[], Watcher]] = {
        "inotify": only_inotify,
        "no instances": only_polling,
        "no watches": lambda: only_polling(NoWatches),
    }
    return ways[request.param]


def test_a_file_replaced_by_rename_again_and_again(tmp_path: Path, watcher: Callable[[], Watcher]) -> None:
    path = tmp_path / "roots.pem"
    path.write_text("0")

    async def scene(watch: Watch) -> None:
        for text in ("1", "22", "333", "4444"):
            assert await noticed(watch, lambda text=text: put(path, text))  # type: ignore[misc]

    watching(path, scene, watcher)


def test_a_file_rewritten_in_place_and_cut(tmp_path: Path, watcher: Callable[[], Watcher]) -> None:
    path = tmp_path / "roots.pem"
    path.write_text("before")

    def append() -> None:
        with path.open("a") as file:
            file.write("more")

    async def scene(watch: Watch) -> None:
        assert await noticed(watch, lambda: path.write_text("after"))
        assert await noticed(watch, lambda: path.write_text(""))
        assert await noticed(watch, append)

    watching(path, scene, watcher)


def test_every_swap_of_a_kubelet_and_not_only_the_first(tmp_path: Path, watcher: Callable[[], Watcher]) -> None:
    swap(tmp_path, "one")

    async def scene(watch: Watch) -> None:
        for text in ("two", "three", "four", "five"):
            assert await noticed(watch, lambda text=text: swap(tmp_path, text))  # type: ignore[misc]
            assert watch.path.read_text() == text

    watching(tmp_path / "token", scene, watcher)


def test_a_file_that_goes_and_comes(tmp_path: Path, watcher: Callable[[], Watcher]) -> None:
    path = tmp_path / "token"
    path.write_text("x")

    async def scene(watch: Watch) -> None:
        assert await noticed(watch, path.unlink)
        assert await noticed(watch, lambda: put(path, "y"))

    watching(path, scene, watcher)


def test_directories_that_appear_later(tmp_path: Path, watcher: Callable[[], Watcher]) -> None:
    path = tmp_path / "a" / "b" / "c" / "token"

    async def scene(watch: Watch) -> None:
        path.parent.mkdir(parents=True)
        assert await noticed(watch, lambda: put(path, "x"))
        assert await noticed(watch, lambda: put(path, "yy"))

    watching(path, scene, watcher)


def test_one_by_one_directories_are_followed_down(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "token"

    async def scene(watch: Watch) -> None:
        assert await noticed(watch, (tmp_path / "a").mkdir)
        assert await noticed(watch, (tmp_path / "a" / "b").mkdir)
        assert await noticed(watch, lambda: path.write_text("x"))

    watching(path, scene)


@pytest.mark.parametrize("absolute", [True, False])
def test_links_to_links_and_the_directory_behind_them_replaced(tmp_path: Path, absolute: bool) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(name)
    current, home = tmp_path / "current", tmp_path / "home"
    current.symlink_to(tmp_path / "one" if absolute else "one")
    home.mkdir()
    (home / "token").symlink_to(tmp_path / "current" / "token" if absolute else "../current/token")

    def point() -> None:
        (tmp_path / "next").symlink_to("two")
        (tmp_path / "next").replace(current)

    async def scene(watch: Watch) -> None:
        assert await noticed(watch, point)
        assert watch.path.read_text() == "two"
        assert await noticed(watch, lambda: put(tmp_path / "two" / "token", "three"))
        assert not await noticed(watch, lambda: put(tmp_path / "one" / "token", "x"), seconds=0.2), "no way leads there"

    watching(home / "token", scene)


def test_the_directory_itself_is_moved_away_and_another_takes_its_place(tmp_path: Path) -> None:
    directory = tmp_path / "etc"
    directory.mkdir()
    path = directory / "roots.pem"
    path.write_text("old")

    def exchange() -> None:
        directory.rename(tmp_path / "aside")
        directory.mkdir()
        path.write_text("new")

    async def scene(watch: Watch) -> None:
        assert await noticed(watch, exchange)
        await asyncio.sleep(0.1)
        assert not await noticed(watch, lambda: put(tmp_path / "aside" / "roots.pem", "x"), seconds=0.2)
        assert await noticed(watch, lambda: put(path, "newer"))

    watching(path, scene)


def test_a_directory_further_up_is_noticed_by_the_slow_look(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "c" / "roots.pem"
    path.parent.mkdir(parents=True)
    path.write_text("old")

    def exchange() -> None:
        (tmp_path / "a").rename(tmp_path / "aside")
        path.parent.mkdir(parents=True)
        path.write_text("newer")

    async def scene(watch: Watch) -> None:
        assert watch.covered
        assert await noticed(watch, exchange)
        assert watch.covered
        assert await noticed(watch, lambda: put(path, "newest"), seconds=0.04), "by inotify again"

    watching(path, scene, lambda: Watcher(poll_seconds=NEVER, safety_seconds=0.05))


def test_a_neighbour_wakes_nobody(tmp_path: Path, watcher: Callable[[], Watcher]) -> None:
    path = tmp_path / "token"
    path.write_text("x")

    async def scene(watch: Watch) -> None:
        assert not await noticed(watch, lambda: put(tmp_path / "other", "y"), seconds=0.2)

    watching(path, scene, watcher)


def test_two_watches_share_a_directory_and_one_may_go(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text("x")

    async def main() -> None:
        made: list[INotify] = []

        def new_inotify() -> INotify:
            made.append(INotify())
            return made[-1]

        watcher = Watcher(new_inotify=new_inotify, poll_seconds=NEVER, safety_seconds=NEVER)
        first, second = watcher.watch(tmp_path / "a"), watcher.watch(tmp_path / "b")
        quiet = second.changes()
        assert await noticed(first, lambda: put(tmp_path / "a", "yy"))
        assert not quiet.done()
        first.close()
        assert await noticed(second, lambda: put(tmp_path / "b", "yy"))
        assert len(made) == 1
        second.close()
        second.close()
        assert made[0].closed, "a watcher without watches holds no instance"

    asyncio.run(asyncio.wait_for(main(), 120))


def test_more_events_than_the_kernel_keeps(tmp_path: Path) -> None:
    """The queue overflows before anything is read: the reader is told, for it may have been any file."""
    path = tmp_path / "token"
    path.write_text("x")
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if limit > 100_000:
        pytest.skip(f"the kernel keeps {limit} events here")
    names = [str(tmp_path / "n0"), str(tmp_path / "n1")]

    def flood() -> None:
        for number in range(limit):
            os.close(os.open(names[number % 2], os.O_CREAT | os.O_WRONLY))
            os.remove(names[number % 2])  # noqa: PTH107 - a hundred thousand times
        put(path, "y")

    async def scene(watch: Watch) -> None:
        assert await noticed(watch, flood)

    watching(path, scene)


def test_when_instances_are_free_again_inotify_takes_over(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("x")
    free = [no_instances, no_instances, INotify]

    async def main() -> None:
        def next_one() -> INotify:
            return free.pop(0)()

        watcher = Watcher(new_inotify=next_one, poll_seconds=0.01, safety_seconds=0.05)
        watch = watcher.watch(path)
        before = watch.covered
        while not watch.covered:
            await asyncio.sleep(0.01)
        watcher.close()
        assert not before

    asyncio.run(asyncio.wait_for(main(), 60))


def test_polling_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(watch: Watch) -> None:
        for text in ("a", "bb", "ccc"):
            assert await noticed(watch, lambda text=text: put(watch.path, text))  # type: ignore[misc]

    watching(tmp_path / "token", scene, only_polling)
    assert len([record for record in caplog.records if "no inotify" in record.message]) == 1


def test_steps_of_a_plain_path_and_of_what_is_missing(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    assert list(steps(tmp_path / "a" / "f")) == [(tmp_path / "a", "f")]
    assert list(steps(tmp_path / "a" / "b" / "f")) == [(tmp_path / "a", "b")]
    (tmp_path / "loop").symlink_to("loop")
    assert len(list(steps(tmp_path / "loop"))) < 50, "a link to itself has an end"
    assert fingerprint(tmp_path / "loop") is None


def test_the_numbers_are_the_kernels() -> None:
    """Written down, so that nothing has to be loaded for them; here they meet the library's."""
    names = [name for name in vars(watch_module) if name.isupper() and hasattr(flags, name)]
    assert len(names) == 12
    assert {name: getattr(watch_module, name) for name in names} == {name: int(flags[name]) for name in names}


def test_a_start_with_better_things_to_do_is_watched_a_moment_later_and_misses_nothing(tmp_path: Path) -> None:
    path, made = tmp_path / "token", []

    def new_inotify() -> INotify:
        made.append("inotify")
        return INotify()

    async def main() -> None:
        watcher = Watcher(new_inotify=new_inotify, arm_seconds=0.05, poll_seconds=NEVER, safety_seconds=NEVER)
        watch = watcher.watch(path)
        try:
            assert not made
            assert await noticed(watch, lambda: put(path, "before inotify"))
            assert made
            assert await noticed(watch, lambda: put(path, "by inotify"))
            other = watcher.watch(tmp_path / "other")
            assert await noticed(other, lambda: put(other.path, "at once, from then on"))
            assert len(made) == 1
        finally:
            watcher.close()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_who_asks_for_a_look_needs_neither_inotify_nor_patience(tmp_path: Path) -> None:
    async def scene(watch: Watch) -> None:
        future = watch.changes()
        asked.look()
        assert not future.done(), "nothing has changed"
        put(watch.path, "on a file system that tells nothing")
        asked.look()
        assert future.done()
        watch.close()
        asked.look()  # nothing is watched

    asked = Watcher(new_inotify=no_instances, poll_seconds=NEVER, safety_seconds=NEVER)
    watching(tmp_path / "token", scene, lambda: asked)
