"""A full disk: said as what it is, at once, whoever was the first to meet it. On file systems that are really full."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki import plugins
from meshpki.errors import MachineError
from meshpki.testing import killed
from meshpki_local import control, disk, processes
from meshpki_local.layout import Layout
from support.local_supervisor import short_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.provision.engine import Report

GIVEN = {"workload": ("default/a",)}


@pytest.fixture
def small() -> Iterator[Callable[[str], Path]]:
    """Mounts a file system of a given size; returns the state directory to be made on it."""
    with short_directory() as unused:
        place = unused.parent / "disk"
        place.mkdir()

        def mount(size: str) -> Path:
            command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
            if shutil.which("mount") is None or subprocess.run(command, check=False, capture_output=True).returncode:
                pytest.skip("only root outside a sandbox can mount a file system")
            return place / "s"

        yield mount
        control.stop(Layout(place / "s"))
        if place.is_mount():
            subprocess.run(["umount", "-l", str(place)], check=True)


def provision(state: Path) -> Report:
    return killed.provision(plugins.load(), "local", state, GIVEN, lambda _: None)


def says_that_the_disk_is_full(error: MachineError) -> bool:
    return ("No space left" in error.seen or "disk is full" in error.seen) and "free some space" in error.todo


@pytest.mark.e2e
@pytest.mark.xdist_group("local-installation")
@pytest.mark.parametrize("size", ["64k", "100k", "160k", "240k", "252k", "264k", "276k", "1000k"])
@pytest.mark.parametrize("asked", [True, False], ids=["asked at first", "met on the way"])
def test_provision_on_a_disk_too_small_says_so_and_goes_on_when_there_is_room(
    small: Callable[[str], Path], size: str, asked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not asked:
        monkeypatch.setattr(disk, "TO_BEGIN", 1)
    state = small(size)
    try:
        provision(state)
    except MachineError as error:
        assert says_that_the_disk_is_full(error), (str(error), error.evidence)
    else:
        assert not asked, "there was not room enough to ask of"
    subprocess.run(["mount", "-o", "remount,size=8m", str(state.parent)], check=True)
    provision(state)
    killed.deprovision(plugins.load(), state, lambda _: None)
    assert list(state.parent.iterdir()) == []
    assert processes.find(state) == []


def test_room_is_asked_for_and_nothing_is_left(tmp_path: Path) -> None:
    disk.check_room(tmp_path, disk.TO_BEGIN)
    assert list(tmp_path.iterdir()) == []
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(MachineError, match="has no room for") as caught:
        disk.check_room(tmp_path, 2 * free + (1 << 40))
    assert str(tmp_path) in caught.value.todo
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_where_nothing_can_be_reserved_it_is_counted(
    tmp_path: Path, refusal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(refusal, os.strerror(refusal))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    disk.check_room(tmp_path, 4096)
    with pytest.raises(MachineError, match="No space left"):
        disk.check_room(tmp_path, 2 * shutil.disk_usage(tmp_path).total)


def test_a_disk_without_files_left_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs(tmp_path)
    fields = [*real]
    fields[5:8] = [1000, 0, 0]
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result(fields))
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "")))
    with pytest.raises(MachineError, match="No space left"):
        disk.check_room(tmp_path, 4096)


def test_another_error_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="No such file"):
        disk.check_room(tmp_path / "nowhere", 4096)
