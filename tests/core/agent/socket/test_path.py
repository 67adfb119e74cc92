"""The socket's place: what is taken over, what is refused, and what is left alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
from contextlib import closing
from pathlib import Path

import pytest

from meshpki.agent.socket import path as socket_path
from meshpki.errors import MachineError


def listen(path: Path) -> socket.socket:
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()
    return server


def take(path: Path) -> tuple[socket.socket, socket_path.OwnSocket]:
    socket_path.prepare(path)
    with socket_path.taking_over(path) as passing:
        server = listen(passing)
        return server, socket_path.put_in_place(passing, path)


def test_a_new_socket_is_for_owner_and_group_in_a_directory_of_its_own(short_dir: Path) -> None:
    path = short_dir / "new" / "sds.sock"
    server, own = take(path)
    with closing(server), closing(socket.socket(socket.AF_UNIX)) as client:
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o750
        assert list(path.parent.iterdir()) == [path]
        client.connect(str(path))
    own.remove()
    assert not path.exists()
    own.remove()


def test_a_dead_socket_is_taken_over(short_dir: Path) -> None:
    path = short_dir / "sds.sock"
    listen(path).close()
    server, _ = take(path)
    with closing(server), closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(str(path))


def test_a_live_agents_socket_is_refused_and_left_alone(short_dir: Path) -> None:
    path = short_dir / "sds.sock"
    with closing(listen(path)), closing(socket.socket(socket.AF_UNIX)) as client:
        with pytest.raises(MachineError, match="already listens"):
            socket_path.prepare(path)
        with pytest.raises(MachineError, match="already listens"), socket_path.taking_over(path):
            pass
        client.connect(str(path))


def test_files_symlinks_and_directories_are_refused_and_left_alone(short_dir: Path) -> None:
    file, link, directory = short_dir / "file", short_dir / "link", short_dir / "directory"
    file.write_text("precious")
    link.symlink_to(short_dir / "elsewhere")
    directory.mkdir()
    for path, what in ((file, "no socket"), (link, "a symbolic link"), (directory, "no socket")):
        with pytest.raises(MachineError, match=what):
            socket_path.prepare(path)
    assert file.read_text() == "precious"
    assert link.is_symlink()


def test_a_symlink_to_a_live_socket_is_refused_too(short_dir: Path) -> None:
    with closing(listen(short_dir / "real")):
        (short_dir / "sds.sock").symlink_to("real")
        with pytest.raises(MachineError, match="symbolic link"):
            socket_path.prepare(short_dir / "sds.sock")


@pytest.mark.parametrize("length", [107, 108, 200])
def test_a_path_is_refused_when_linux_has_no_room_for_it(short_dir: Path, length: int) -> None:
    path = short_dir / "d" / ("s" * (length - len(str(short_dir)) - 3))
    assert len(str(path)) == length
    if length <= 107:
        server, _ = take(path)
        server.close()
        return
    with pytest.raises(MachineError, match=rf"needs {length} bytes.*at most 107"):
        socket_path.prepare(path)
    assert not path.parent.exists()


@pytest.mark.parametrize("path", ["/", "."])
def test_a_path_without_a_name_is_no_socket(path: str) -> None:
    with pytest.raises(MachineError, match="is a directory; wanted: the path of a socket"):
        socket_path.prepare(Path(path))


def test_the_passing_name_counts_too(short_dir: Path) -> None:
    directory = short_dir / ("d" * (107 - len(str(short_dir)) - 6))
    with pytest.raises(MachineError, match="at most 107"):
        socket_path.prepare(directory / "s")


@pytest.mark.parametrize("mode", [0o755, 0o770, 0o777, 0o751])
def test_a_directory_that_others_can_enter_is_refused_and_not_changed(short_dir: Path, mode: int) -> None:
    directory = short_dir / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(MachineError, match=f"mode {mode:04o}.*chmod 750"):
        socket_path.prepare(directory / "sds.sock")
    assert stat.S_IMODE(directory.stat().st_mode) == mode


def test_a_symlinked_directory_is_refused(short_dir: Path) -> None:
    (short_dir / "link").symlink_to(short_dir)
    with pytest.raises(MachineError, match="symbolic link"):
        socket_path.prepare(short_dir / "link" / "sds.sock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_somebody_else_is_refused(short_dir: Path) -> None:
    directory = short_dir / "theirs"
    directory.mkdir(mode=0o750)
    os.chown(directory, 12345, 12345)
    with pytest.raises(MachineError, match="belongs to user 12345"):
        socket_path.prepare(directory / "sds.sock")


def test_a_socket_that_came_later_is_not_ours_to_remove(short_dir: Path) -> None:
    path = short_dir / "sds.sock"
    server, own = take(path)
    server.close()
    later, _ = take(path)
    with closing(later):
        own.remove()
        assert path.is_socket()


def test_what_a_killed_agent_left_is_swept(short_dir: Path) -> None:
    listen(short_dir / ".sds-dead").close()
    (short_dir / ".sds-file").write_text("not a socket")
    server, _ = take(short_dir / "sds.sock")
    server.close()
    assert sorted(path.name for path in short_dir.iterdir()) == [".sds-file", "sds.sock"]


def volume(short_dir: Path, mode: int, owner: int = -1, group: int = -1) -> Path:
    """What a kubelet makes for an emptyDir."""
    directory = short_dir / "volume"
    directory.mkdir()
    os.chown(directory, owner, group)
    directory.chmod(mode)
    return directory


@pytest.mark.parametrize("mode", [0o777, 0o2777, 0o1777, 0o770, 0o755])
def test_an_empty_dir_is_refused_with_both_ways_out_and_accepted_by_the_operators_word(
    short_dir: Path, mode: int
) -> None:
    path = volume(short_dir, mode) / "socket"
    if mode & 0o027:
        with pytest.raises(MachineError, match="others could") as caught:
            socket_path.prepare(path)
        assert "--shared-socket-directory" in caught.value.todo
        assert str(path.parent / "sds" / "sds.sock") in caught.value.todo
    socket_path.prepare(path, shared=True)
    with socket_path.taking_over(path) as passing, closing(listen(passing)):
        socket_path.put_in_place(passing, path)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o660
    assert stat.S_IMODE(path.parent.stat().st_mode) == mode, "somebody else's directory is left as it is"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_a_third_partys_directory_is_refused_even_so(short_dir: Path) -> None:
    path = volume(short_dir, 0o777, owner=12345) / "socket"
    with pytest.raises(MachineError, match="belongs to user 12345"):
        socket_path.prepare(path, shared=True)


def test_a_link_to_a_shared_directory_is_refused_even_so(short_dir: Path) -> None:
    (short_dir / "link").symlink_to(volume(short_dir, 0o777))
    with pytest.raises(MachineError, match="symbolic link"):
        socket_path.prepare(short_dir / "link" / "socket", shared=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")
def test_in_a_volume_with_an_fs_group_directory_and_socket_are_of_that_group(short_dir: Path) -> None:
    path = volume(short_dir, 0o2777, group=4242) / "sds" / "sds.sock"
    server, _ = take(path)
    with closing(server):
        assert (path.parent.stat().st_gid, stat.S_IMODE(path.parent.stat().st_mode)) == (4242, 0o2750)
        assert (path.lstat().st_gid, stat.S_IMODE(path.lstat().st_mode)) == (4242, 0o660)
    socket_path.prepare(path)


def test_two_agents_that_begin_at_once_take_turns(short_dir: Path) -> None:
    """Else both would find the path free, and one would rename its socket over the other's."""
    path = short_dir / "new" / "sds.sock"
    socket_path.prepare(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket_path.taking_over(path), pytest.raises(BlockingIOError):
            fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(directory)


def test_an_agent_that_is_too_busy_to_answer_is_not_taken_for_a_dead_one(short_dir: Path) -> None:
    path = short_dir / "new" / "sds.sock"
    path.parent.mkdir(mode=0o750)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
        server.bind(str(path))
        server.listen(0)
        with pytest.raises(BlockingIOError):  # its queue is full
            while True:
                client = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
                client.setblocking(False)
                client.connect(str(path))
        with pytest.raises(MachineError, match="already listens"):
            socket_path.prepare(path)
        assert path.is_socket()
