"""The files as a face: they follow the feed, whatever the disk does, and the notice goes out one at a time."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.agent.files import command as file_command
from meshpki.agent.files.face import FilesFace
from meshpki.agent.files.notice import CommandNotice, SignalNotice
from meshpki.agent.files.set import FileSet
from meshpki.agent.files.standing import FilesStanding
from meshpki.agent.files.teller import ATTEMPTS, Teller
from meshpki.agent.rotation.feed import Feed
from support.fake_ca import FakeAuthority
from support.real_snapshots import real_snapshot
from support.snapshots import snapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SOON = 0.05


async def until(condition: Callable[[], object], what: str) -> None:
    """Poll a condition inside a loop, with a bound."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        await asyncio.sleep(0.01)


def key(directory: Path) -> bytes:
    try:
        return (directory / "key.pem").read_bytes()
    except OSError:
        return b""


def notes(command: str, log: Path) -> CommandNotice:
    """A command that notes when it begins and ends."""
    code = f"import sys, time; from pathlib import Path; log = open(sys.argv[1], 'a', buffering=1)\n{command}"
    return CommandNotice((sys.executable, "-I", "-c", code, str(log)), 60)


ONCE = "log.write(Path('{}/key.pem').read_text() + '\\n')"


def playing(
    directory: Path,
    scene: Callable[[Feed, FilesFace], Awaitable[None]],
    notice: CommandNotice | SignalNotice | None = None,
) -> None:
    async def main() -> None:
        feed = Feed()
        teller = Teller(notice, directory, retry_seconds=SOON) if notice is not None else None
        face = FilesFace(FileSet(directory), feed, teller, retry_seconds=SOON)
        face.start()
        try:
            await scene(feed, face)
        finally:
            await face.stop()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_the_files_follow_the_feed(tmp_path: Path) -> None:
    directory = tmp_path / "certs"

    async def scene(feed: Feed, face: FilesFace) -> None:
        await asyncio.sleep(0)
        assert not directory.exists(), "nothing to write yet"
        for serial in (1, 2, 3):
            new = snapshot(serial)
            feed.publish(new)
            await face.tried(new)
            assert key(directory) == b"key %d" % serial
        new = snapshot(3, bundle=b"more roots")
        feed.publish(new)
        await face.tried(new)
        assert (directory / "root-cert.pem").read_bytes() == b"more roots"

    playing(directory, scene)


def test_a_snapshot_that_is_no_longer_the_newest_is_not_waited_for(tmp_path: Path) -> None:
    async def scene(feed: Feed, face: FilesFace) -> None:
        old, new = snapshot(1), snapshot(2)
        feed.publish(old)
        feed.publish(new)
        await face.tried(old)
        await face.tried(new)
        assert key(tmp_path / "certs") == b"key 2"

    playing(tmp_path / "certs", scene)


def test_trouble_is_said_once_and_over_when_the_cause_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = tmp_path / "certs"
    directory.write_text("in the way")

    async def scene(feed: Feed, face: FilesFace) -> None:
        new = snapshot(1)
        feed.publish(new)
        await face.tried(new)
        assert "no directory" in face.trouble
        await asyncio.sleep(5 * SOON)
        directory.unlink()
        await until(lambda: key(directory) == b"key 1", "written by itself")
        await until(lambda: not face.trouble, "over")

    playing(directory, scene)
    assert len([record for record in caplog.records if record.levelname == "WARNING"]) == 1


def test_how_the_files_stand_is_told_while_they_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What they hold stays good until it expires; then that is said, once, however often it is tried again."""
    directory, aside = tmp_path / "certs", tmp_path / "aside"
    caplog.set_level("INFO")

    async def scene(feed: Feed, face: FilesFace) -> None:
        assert face.standing == FilesStanding()
        old = snapshot(1, ends=int(time.time()) + 2)
        feed.publish(old)
        await face.tried(old)
        assert face.standing == FilesStanding(ends=old.not_after)
        directory.rename(aside)
        directory.write_text("in the way")
        new = snapshot(2, ends=int(time.time()) + 3600)
        feed.publish(new)
        await face.tried(new)
        assert face.standing.ends == old.not_after, "what is served now is not in the files"
        assert "no directory" in face.standing.trouble
        await until(lambda: "has expired" in caplog.text, "a word about it")
        tries = face.standing.failures
        await until(lambda: face.standing.failures >= tries + 3, "tried again and again")
        directory.unlink()
        aside.rename(directory)
        await until(lambda: face.standing.ends == new.not_after, "written by itself")
        assert face.standing.trouble == ""

    playing(directory, scene)
    said = [(record.levelname, record.message) for record in caplog.records]
    assert [message for level, message in said if level == "ERROR"] == [
        "the certificate in the files has expired, and no newer one can be written"
    ]
    assert said[-1] == ("INFO", "the files are written again")


def test_a_run_that_cannot_write_counts_on_what_the_run_before_it_left(tmp_path: Path) -> None:
    directory, made = tmp_path / "certs", real_snapshot(FakeAuthority())
    FileSet(directory).write(made)
    (directory / "key.pem").unlink()
    (directory / "key.pem").write_text("in the way")

    async def scene(feed: Feed, face: FilesFace) -> None:
        new = replace(made, serial=2, not_after=made.not_after + 60)
        feed.publish(new)
        await face.tried(new)
        assert face.standing.ends == made.not_after
        assert "not made by this agent" in face.standing.trouble

    playing(directory, scene)


def test_a_change_during_trouble_is_what_gets_written_in_the_end(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.write_text("in the way")

    async def scene(feed: Feed, face: FilesFace) -> None:
        for serial in (1, 2):
            new = snapshot(serial)
            feed.publish(new)
            await face.tried(new)
        directory.unlink()
        await until(lambda: key(directory) == b"key 2", "the newest")

    playing(directory, scene)


def test_the_command_runs_after_every_change_when_the_files_are_there(tmp_path: Path) -> None:
    directory, told = tmp_path / "certs", tmp_path / "told"

    async def scene(feed: Feed, face: FilesFace) -> None:
        for serial in (1, 2, 3):
            feed.publish(snapshot(serial))
            await until(lambda: told.exists() and told.read_text().endswith(f"key {serial}\n"), "told")  # noqa: B023

    playing(directory, scene, notes(ONCE.format(directory), told))
    assert told.read_text().split("\n") == ["key 1", "key 2", "key 3", ""]


def test_it_never_runs_beside_itself_and_changes_meanwhile_are_told_once(tmp_path: Path) -> None:
    directory, told = tmp_path / "certs", tmp_path / "told"
    slow = "log.write('begin\\n')\nwhile not Path(sys.argv[1] + '.go').exists(): time.sleep(0.01)\n"
    slow += ONCE.format(directory) + "\nlog.write('end\\n')"

    async def scene(feed: Feed, face: FilesFace) -> None:
        feed.publish(snapshot(1))
        await until(told.exists, "the command runs")
        for serial in (2, 3, 4):
            new = snapshot(serial)
            feed.publish(new)
            await face.tried(new)
            assert key(directory) == b"key %d" % serial, "a slow command holds up no file"
        (tmp_path / "told.go").touch()
        await until(lambda: told.read_text().count("end") == 2, "twice")
        await asyncio.sleep(5 * SOON)

    playing(directory, scene, notes(slow, told))
    assert told.read_text().split() == ["begin", "key", "4", "end"] * 2


def test_a_command_that_fails_is_tried_again_but_not_for_ever(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory, told = tmp_path / "certs", tmp_path / "told"

    async def scene(feed: Feed, face: FilesFace) -> None:
        for rounds in (1, 2):
            feed.publish(snapshot(rounds))
            await until(lambda: told.exists() and told.read_text().count("x") == rounds * ATTEMPTS, "tried")  # noqa: B023
            await asyncio.sleep(5 * SOON)
            assert told.read_text().count("x") == rounds * ATTEMPTS
            assert not face.trouble, "the files themselves are well"
            assert (face.standing.failures, face.standing.untold) == (0, rounds * ATTEMPTS)

    playing(directory, scene, notes("log.write('x'); print('said so'); sys.exit(4)", told))
    assert len([record for record in caplog.records if "nobody could be told" in record.message]) == 2 * ATTEMPTS


def test_a_fault_of_ours_ends_neither_files_nor_notices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as a thread that the machine has no room for."""
    directory, told = tmp_path / "certs", tmp_path / "told"
    faults = {"write": 2, "run": 1}

    def faulty(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object) -> object:
            if faults[name]:
                faults[name] -= 1
                raise RuntimeError("key 1")
            return original(*args)

        return call

    monkeypatch.setattr(FileSet, "write", faulty("write", FileSet.write))
    monkeypatch.setattr(file_command, "run", faulty("run", file_command.run))

    async def scene(feed: Feed, face: FilesFace) -> None:
        feed.publish(snapshot(1))
        await until(lambda: told.exists() and told.read_text() == "key 1\n", "written and told nevertheless")
        assert (face.standing.failures, face.standing.untold) == (2, 1)

    playing(directory, scene, notes(ONCE.format(directory), told))
    said = [vars(record)["seen"] for record in caplog.records]
    assert said == ["a fault of the agent: RuntimeError"] * 2, "one of each, and nothing of what it held"


def test_a_change_during_a_failing_command_is_told_as_often_as_any(tmp_path: Path) -> None:
    directory, told = tmp_path / "certs", tmp_path / "told"
    slow = "log.write('x')\nwhile not Path(sys.argv[1] + '.go').exists(): time.sleep(0.01)\nsys.exit(1)"

    async def scene(feed: Feed, face: FilesFace) -> None:
        feed.publish(snapshot(1))
        await until(told.exists, "the command runs")
        new = snapshot(2)
        feed.publish(new)
        await face.tried(new)
        (tmp_path / "told.go").touch()
        await until(lambda: told.read_text() == "x" * (1 + ATTEMPTS), "all attempts")

    playing(directory, scene, notes(slow, told))


def test_stopping_ends_a_running_command(tmp_path: Path) -> None:
    directory, told = tmp_path / "certs", tmp_path / "told"

    async def scene(feed: Feed, face: FilesFace) -> None:
        feed.publish(snapshot(1))
        await until(lambda: told.exists() and told.read_text().endswith("\n"), "the command runs")

    playing(directory, scene, notes("import os; log.write(f'{os.getpid()}\\n'); time.sleep(600)", told))
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_a_signal_after_every_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    directory, told, pid_file = tmp_path / "certs", tmp_path / "told", tmp_path / "pid"
    script = (
        f"trap 'cat {directory}/key.pem >> {told}; echo >> {told}' HUP; echo $$ > {pid_file}; touch {tmp_path}/on; "
    )
    script += "while :; do sleep 0.02; done"

    async def scene(feed: Feed, face: FilesFace) -> None:
        feed.publish(snapshot(1))
        await until(lambda: "there is no program to signal" in caplog.text, "files, and nobody to tell")
        process = await asyncio.create_subprocess_exec("/bin/sh", "-c", script)
        try:
            await until((tmp_path / "on").exists, "the program listens")
            for serial in (2, 3):
                feed.publish(snapshot(serial))
                await until(lambda: told.exists() and told.read_text().endswith(f"key {serial}\n"), "told")  # noqa: B023
        finally:
            process.kill()
            await process.wait()

    playing(directory, scene, SignalNotice(signal.SIGHUP, pid_file))
    # Whether there was nobody to tell of the first is a matter of time: the files are there a moment before.
    assert told.read_text().removeprefix("key 1\n") == "key 2\nkey 3\n"
