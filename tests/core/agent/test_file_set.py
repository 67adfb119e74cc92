"""The files change as one set: for a reader in a loop, for a kill at any moment, for what others put there."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meshpki.agent.file_set import FileSet
from meshpki.errors import MachineError
from support.snapshots import snapshot

NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem")


def read_set(directory: Path) -> dict[str, bytes]:
    """As a careful program reads: one look at `..data`, then everything from there."""
    descriptor = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        return {name: read_at(descriptor, name) for name in NAMES}
    finally:
        os.close(descriptor)


def read_at(directory: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def number(content: bytes) -> int:
    return int(content.split()[1])


def test_names_modes_and_content(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    FileSet(directory).write(snapshot(3))
    assert {name: (directory / name).read_bytes() for name in NAMES} == {
        "key.pem": b"key 3",
        "cert-chain.pem": b"chain 3",
        "root-cert.pem": b"roots",
    }
    assert [stat.S_IMODE((directory / name).stat().st_mode) for name in NAMES] == [0o600, 0o644, 0o644]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "..data").stat().st_mode) == 0o700
    assert [str((directory / name).readlink()) for name in NAMES] == [f"..data/{name}" for name in NAMES]


def test_the_set_before_stays_for_readers_that_are_in_it_and_older_ones_go(tmp_path: Path) -> None:
    files = FileSet(tmp_path / "certs")
    files.write(snapshot(1))
    descriptor = os.open(tmp_path / "certs" / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        files.write(snapshot(2))
        assert read_at(descriptor, "key.pem") == b"key 1"
    finally:
        os.close(descriptor)
    for serial in range(3, 9):
        files.write(snapshot(serial))
    sets = [path for path in (tmp_path / "certs").iterdir() if path.name.startswith("..set-")]
    assert sorted((path / "key.pem").read_bytes() for path in sets) == [b"key 7", b"key 8"]


def test_a_reader_in_a_loop_never_sees_a_mixed_set(tmp_path: Path) -> None:
    directory, files, done = tmp_path / "certs", FileSet(tmp_path / "certs"), threading.Event()
    files.write(snapshot(1))

    def rotate() -> None:
        for serial in range(2, 301):
            files.write(snapshot(serial, bundle=b"roots %d" % serial))
        done.set()

    thread = threading.Thread(target=rotate)
    thread.start()
    seen = set()
    while not done.is_set():
        try:
            found = read_set(directory)
        except FileNotFoundError:  # two changes while we read: look again
            continue
        key, chain = number(found["key.pem"]), number(found["cert-chain.pem"])
        assert key == chain
        assert key == 1 or number(found["root-cert.pem"]) == key
        seen.add(key)
    thread.join()
    assert len(seen) > 3
    assert number(read_set(directory)["key.pem"]) == 300


_ENDLESS = """
import sys
from pathlib import Path
from support.snapshots import snapshot
from meshpki.agent.file_set import FileSet
files, serial = FileSet(Path(sys.argv[1])), int(sys.argv[2])
while True:
    files.write(snapshot(serial, bundle=b"roots %d" % serial))
    print(serial, flush=True)
    serial += 1
"""


def test_killed_anywhere_it_leaves_a_whole_set_and_the_next_one_cleans_up(tmp_path: Path) -> None:
    directory, serial = tmp_path / "certs", 1
    for round_ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, str(directory), str(serial)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
        assert process.stdout is not None
        for _ in range(3 + round_):  # another moment of its work in every round
            serial = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = {name: number(content) for name, content in read_set(directory).items()}
        assert len(set(found.values())) == 1
        assert found["key.pem"] >= serial
        serial = found["key.pem"] + 1
    FileSet(directory).write(snapshot(serial))
    assert len([path for path in directory.iterdir() if path.name.startswith("..set-")]) == 2
    assert not (directory / "..data.new").is_symlink()
    assert not list(directory.rglob("*.new"))


@pytest.mark.parametrize("name", [*NAMES, "..data"])
def test_files_of_others_are_refused_and_left_alone(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "certs"
    directory.mkdir(mode=0o700)
    (directory / name).write_text("precious")
    with pytest.raises(MachineError, match="not made by this agent"):
        FileSet(directory).prepare()
    with pytest.raises(MachineError, match="not made by this agent"):
        FileSet(directory).write(snapshot())
    assert (directory / name).read_text() == "precious"


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.mkdir()
    directory.chmod(0o755)
    with pytest.raises(MachineError, match="0755"):
        FileSet(directory).prepare()


def test_other_files_in_the_directory_stay(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    directory.mkdir(mode=0o700)
    (directory / "notes.txt").write_text("mine")
    for serial in (1, 2, 3):
        FileSet(directory).write(snapshot(serial))
    assert (directory / "notes.txt").read_text() == "mine"
