"""The files change as one set: for a reader in a loop, for a kill at any moment, for what others put there."""

from __future__ import annotations

import errno
import os
import re
import signal
import ssl
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from meshpki.agent.files.access import FileAccess
from meshpki.agent.files.set import FileSet
from meshpki.errors import MachineError
from meshpki.identity import SpiffeId
from support.fake_ca import FakeAuthority
from support.real_snapshots import real_snapshot
from support.snapshots import snapshot

NAMES = ("key.pem", "cert-chain.pem", "root-cert.pem", "credential-bundle.pem")


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
        "credential-bundle.pem": b"key 3chain 3",
    }
    assert [stat.S_IMODE((directory / name).stat().st_mode) for name in NAMES] == [0o600, 0o644, 0o644, 0o600]
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


_ENDLESS = """
import sys
from pathlib import Path
from support.snapshots import snapshot
from meshpki.agent.files.set import FileSet
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
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        )
        assert process.stdout is not None
        for _ in range(3 + round_):  # another moment of its work in every round
            serial = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        found = {name: number(content) for name, content in read_set(directory).items() if name in NAMES[:3]}
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


ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
OTHER = 12_345


def facts(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640])
def test_a_mode_for_files_with_a_key(tmp_path: Path, mode: int) -> None:
    directory = tmp_path / "certs"
    FileSet(directory, FileAccess(mode)).write(snapshot())
    found = {name: stat.S_IMODE((directory / name).stat().st_mode) for name in NAMES}
    assert found == {
        "key.pem": mode,
        "credential-bundle.pem": mode,
        "cert-chain.pem": 0o644,
        "root-cert.pem": 0o644,
    }
    around = 0o750 if mode & 0o040 else 0o700
    assert [stat.S_IMODE(path.stat().st_mode) for path in (directory, directory / "..data")] == [around, around]


@ROOT
def test_an_owner_gets_the_files_and_its_group_may_enter(tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    for _ in range(2):
        FileSet(directory, FileAccess(0o600, OTHER, OTHER + 1)).write(snapshot())
    assert {facts(directory / name)[:2] for name in NAMES} == {(OTHER, OTHER + 1)}
    for path in (directory, directory / "..data"):  # the agent's: nobody else puts a link into its way
        assert facts(path) == (os.geteuid(), OTHER + 1, 0o750)


@ROOT
@pytest.mark.parametrize(
    ("uid", "gid", "reads"), [(OTHER, OTHER, True), (OTHER + 1, OTHER, False), (OTHER + 1, 7, False)]
)
def test_who_the_files_are_for_can_read_the_key_and_others_cannot(uid: int, gid: int, reads: bool) -> None:
    """By a process of that user, through the links as programs go."""
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        Path(base).chmod(0o755)
        FileSet(Path(base) / "certs", FileAccess(0o600, OTHER, OTHER)).write(snapshot(5))
        done = subprocess.run(
            ["/bin/cat", f"{base}/certs/key.pem"],
            user=uid,
            group=gid,
            extra_groups=[],
            capture_output=True,
            check=False,
        )
    assert (done.stdout == b"key 5", done.returncode == 0) == (reads, reads)


@ROOT
def test_a_group_that_may_read_reads(tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as base:
        Path(base).chmod(0o755)
        FileSet(Path(base) / "certs", FileAccess(0o640, None, OTHER)).write(snapshot(5))
        cat = ["/bin/cat", f"{base}/certs/..data/credential-bundle.pem"]
        done = subprocess.run(cat, user=OTHER + 1, group=OTHER, extra_groups=[], capture_output=True, check=True)
    assert done.stdout == b"key 5chain 5"


def test_other_readers_than_last_time(tmp_path: Path) -> None:
    """The directory opens for a group that is now wanted; it does not close by itself to one that no longer is."""
    directory = tmp_path / "certs"
    FileSet(directory).write(snapshot(1))
    FileSet(directory, FileAccess(0o640)).write(snapshot(2))
    assert stat.S_IMODE(directory.stat().st_mode) == 0o750
    with pytest.raises(MachineError, match="chmod 700"):
        FileSet(directory).write(snapshot(3))


_WITHOUT_CHOWN = """
import ctypes, os, sys
# capset(2), version 3: all capabilities of root but CAP_CHOWN, which is bit 0.
header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
libc = ctypes.CDLL(None, use_errno=True)
assert libc.capget(header, data) == 0
for at in (0, 1, 2):
    data[at] &= ~1
assert libc.capset(header, data) == 0, os.strerror(ctypes.get_errno())
from pathlib import Path
from meshpki.agent.files.access import FileAccess
from meshpki.agent.files.set import FileSet
from support.snapshots import snapshot
from meshpki.errors import MachineError
try:
    FileSet(Path(sys.argv[1]), FileAccess(0o600, 12345, 12345)).write(snapshot(1))
except MachineError as error:
    print(error.todo)
"""


@ROOT
def test_an_owner_that_we_may_not_give_files_to(tmp_path: Path) -> None:
    """In a process without the right, which is taken away by the kernel and not by a stand-in."""
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_CHOWN, str(tmp_path / "certs")],
        capture_output=True,
        text=True,
        check=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert "run as the user who owns it" in done.stdout


def test_a_set_that_could_not_be_finished_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = tmp_path / "certs"
    files = FileSet(directory)
    files.write(snapshot(1))
    real = os.fsync

    def full(descriptor: int) -> None:
        if "cert-chain" in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    for _ in range(3):
        with pytest.raises(MachineError, match="No space"):
            files.write(snapshot(2))
    assert len([path for path in directory.iterdir() if path.name.startswith("..set-")]) == 1
    assert (directory / "key.pem").read_bytes() == b"key 1"


def test_the_credential_bundle_is_read_by_openssl_as_one_file(tmp_path: Path) -> None:
    FileSet(tmp_path / "certs").write(real_snapshot(FakeAuthority()))
    ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(tmp_path / "certs" / "credential-bundle.pem")
    text = (tmp_path / "certs" / "credential-bundle.pem").read_text()
    assert re.findall("BEGIN ([A-Z ]+)-", text) == ["PRIVATE KEY", "CERTIFICATE", "CERTIFICATE"]


def test_the_links_of_single_files_can_be_overtaken(tmp_path: Path) -> None:
    """What the page on files warns of, shown: a change between two opens by name. The set stays together."""
    directory = tmp_path / "certs"
    files = FileSet(directory)
    files.write(snapshot(1))
    key = (directory / "key.pem").read_bytes()
    descriptor = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
    files.write(snapshot(2))
    assert (key, (directory / "cert-chain.pem").read_bytes()) == (b"key 1", b"chain 2")
    assert read_at(descriptor, "key.pem") + read_at(descriptor, "cert-chain.pem") == b"key 1chain 1"
    os.close(descriptor)


def test_until_when_the_current_set_is_good_is_read_from_it(tmp_path: Path) -> None:
    """A new run that cannot write has to know what the run before it left."""
    files, made = FileSet(tmp_path / "certs"), real_snapshot(FakeAuthority())
    assert files.ends(made.spiffe_id) is None, "nothing yet"
    files.write(made)
    assert FileSet(tmp_path / "certs").ends(made.spiffe_id) == made.not_after
    other = SpiffeId.parse("spiffe://mesh.test/ns/default/sa/other")
    assert files.ends(other) is None, "a volume that had another pod before"
    (tmp_path / "certs" / "..data" / "cert-chain.pem").write_bytes(b"cut short")
    assert files.ends(made.spiffe_id) is None
