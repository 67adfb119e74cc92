"""Private files and directories: whole or not at all, and nobody else's."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from meshpki.errors import MachineError
from meshpki.runtime.files import (
    check_private_directory,
    machine_errors,
    private_directory,
    read_capped,
    read_private,
    write_atomically,
)
from meshpki.runtime.open_files import OpenFilesError


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("wanted", [0o600, 0o644])
def test_a_file_is_written_with_its_mode_whatever_the_umask(tmp_path: Path, wanted: int) -> None:
    old = os.umask(0)
    try:
        write_atomically(tmp_path / "key", b"secret", mode=wanted)
    finally:
        os.umask(old)
    assert (mode(tmp_path / "key"), (tmp_path / "key").read_bytes()) == (wanted, b"secret")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


def test_the_key_is_never_readable_by_others_not_even_for_a_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = os.fchmod

    def look(descriptor: int, bits: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        real(descriptor, bits)

    monkeypatch.setattr(os, "fchmod", look)
    write_atomically(tmp_path / "key", b"secret")
    assert seen == [0o600]


def test_a_reader_sees_the_old_bytes_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([number]) * 50_000 for number in range(2)]
    write_atomically(path, contents[0])
    stop = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not stop.is_set():
            seen.add(path.read_bytes())

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(60):
        write_atomically(path, contents[number % 2])
    stop.set()
    thread.join(60)
    assert seen <= set(contents)


@pytest.mark.parametrize("failing", ["fsync", "fchmod"])
def test_a_write_that_fails_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(MachineError, match="No space left") as caught:
            write_atomically(path, b"new")
    assert "free some space" in caught.value.todo
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.iterdir()] == ["file"]


def test_a_link_is_replaced_never_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(target)
    write_atomically(tmp_path / "link", b"new")
    assert target.read_bytes() == b"precious"
    assert not (tmp_path / "link").is_symlink()


def test_reading_is_capped(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_capped(path, limit=5) == b"12345"
    with pytest.raises(MachineError, match="larger than 4"):
        read_capped(path, limit=4)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        read_capped(tmp_path, limit=5)
    with pytest.raises(MachineError, match="no regular file"):
        read_capped(Path("/dev/zero"), limit=5)
    with pytest.raises(MachineError, match="No such file") as caught:
        read_capped(tmp_path / "none", limit=5)
    assert caught.value.todo == "check the path"


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_a_key_that_others_can_reach_is_not_used(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "key"
    write_atomically(path, b"secret")
    assert read_private(path, limit=100) == b"secret"
    path.chmod(bits)
    with pytest.raises(MachineError, match="others can read"):
        read_private(path, limit=100)


def test_a_key_of_somebody_else_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_atomically(path, b"secret")
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(MachineError, match="belongs to user"):
        read_private(path, limit=100)


def test_a_private_directory_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "state"
    assert private_directory(path)
    assert mode(path) == 0o700
    assert not private_directory(path)
    check_private_directory(path)


@pytest.mark.parametrize("bits", [0o755, 0o701, 0o710])
def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(bits)
    with pytest.raises(MachineError, match="others can enter"):
        private_directory(path)


def test_a_link_or_a_file_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MachineError, match="a symbolic link"):
        private_directory(tmp_path / "link")
    with pytest.raises(MachineError, match="no directory"):
        private_directory(tmp_path / "file")


def test_a_directory_of_somebody_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state"
    private_directory(path)
    monkeypatch.setattr(os, "geteuid", lambda: path.stat().st_uid + 1)
    with pytest.raises(MachineError, match="belongs to user"):
        private_directory(path)


@pytest.mark.parametrize(
    ("number", "todo"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "run as the user who owns it"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "check the path"),
        (errno.ELOOP, "symbolic link"),
        (errno.ENFILE, "file-nr"),
        (errno.EIO, "see the message"),
    ],
)
def test_each_refusal_of_the_machine_says_what_to_do(number: int, todo: str) -> None:
    with pytest.raises(MachineError) as caught, machine_errors("could not write", Path("/state/file")):
        raise OSError(number, os.strerror(number))
    assert caught.value.seen == f"could not write /state/file: {os.strerror(number)}"
    assert todo in caught.value.todo
    assert isinstance(caught.value.__cause__, OSError)


def test_the_limit_on_open_files_is_a_failure_of_its_own_kind() -> None:
    with pytest.raises(OpenFilesError) as caught, machine_errors("could not read", Path("/state/file")):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert caught.value.seen.startswith("could not read /state/file: Too many open files; this process may have ")
    assert "ulimit -n" in caught.value.todo


@pytest.mark.parametrize("check", ["directory", "key"])
def test_the_advice_can_be_typed(check: str, tmp_path: Path) -> None:
    path = tmp_path / "two words"
    if check == "key":
        path.touch(mode=0o644)
    else:
        path.mkdir(mode=0o755)
    with pytest.raises(MachineError) as caught:
        if check == "key":
            read_private(path, limit=1)
        else:
            check_private_directory(path)
    assert f" '{path}'" in caught.value.todo
    assert check == "key" or caught.value.todo.startswith("name a directory of its own; or chmod 700 ")


def test_a_path_without_a_name_is_no_file() -> None:
    with pytest.raises(MachineError, match="it is a directory; wanted: the name of a file"):
        write_atomically(Path("/"), b"")


def test_a_rename_is_durable_when_the_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut brings back the old file, which somebody may have been told is gone."""
    done: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        real(descriptor)
        at = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append("directory" if at == tmp_path else "file")
        if at == tmp_path:
            assert (tmp_path / "x").read_bytes() == b"new"

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomically(tmp_path / "x", b"new")
    assert done == ["file", "directory"]
