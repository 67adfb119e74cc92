"""An authority on disk: whole or not there, private, never replaced, and described with its worries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from meshpki.ca import material
from meshpki.ca.issuer import Issuer
from meshpki.ca.keys import KeyKind
from meshpki.errors import IntegrityError, MachineError, UsageError
from meshpki.identity import TrustDomain
from support.authority import MESH, NOW, make_authority

DAY = 86_400
YEAR = 365 * DAY


def make(directory: Path, trust_domain: TrustDomain = MESH, key_type: KeyKind = KeyKind.EC_P256) -> bool:
    return material.create(directory, trust_domain=trust_domain, now=NOW, key_type=key_type)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(directory.iterdir())}


def test_what_is_made(tmp_path: Path) -> None:
    directory = tmp_path / "state" / "ca"
    assert make(directory)
    assert sorted(contents(directory)) == sorted(material.ALL)
    modes = {path.name: path.stat().st_mode & 0o777 for path in [directory, *directory.iterdir()]}
    assert modes == {
        "ca": 0o700,
        "root-cert.pem": 0o644,
        "root-key.pem": 0o600,
        "issuer-cert.pem": 0o644,
        "issuer-key.pem": 0o600,
    }
    assert list(directory.parent.iterdir()) == [directory]
    Issuer.from_signer(material.load(directory))


def test_umask_does_not_matter(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        make(tmp_path / "ca")
    finally:
        os.umask(before)
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "ca" / "root-key.pem").stat().st_mode & 0o777 == 0o600


def test_a_second_call_changes_nothing(tmp_path: Path) -> None:
    make(tmp_path / "ca")
    before = contents(tmp_path / "ca")
    assert not make(tmp_path / "ca")
    assert not make(tmp_path / "ca", key_type=KeyKind.EC_P384)
    assert contents(tmp_path / "ca") == before


def test_an_empty_private_directory_is_filled(tmp_path: Path) -> None:
    (tmp_path / "ca").mkdir(mode=0o700)
    assert make(tmp_path / "ca")


def test_without_the_root_key_it_is_complete(tmp_path: Path) -> None:
    make(tmp_path / "ca")
    (tmp_path / "ca" / "root-key.pem").unlink()
    assert not make(tmp_path / "ca")
    Issuer.from_signer(material.load(tmp_path / "ca"))
    found = material.describe(tmp_path / "ca", NOW)
    assert not found.root_key_here


def test_another_trust_domain_is_another_authority(tmp_path: Path) -> None:
    make(tmp_path / "ca")
    with pytest.raises(UsageError, match=r"authority of mesh\.local.*authority of other\.local"):
        make(tmp_path / "ca", TrustDomain("other.local"))


@pytest.mark.parametrize("missing", ["root-cert.pem", "issuer-cert.pem", "issuer-key.pem"])
def test_half_a_set_is_said_and_left(missing: str, tmp_path: Path) -> None:
    make(tmp_path / "ca")
    (tmp_path / "ca" / missing).unlink()
    before = contents(tmp_path / "ca")
    with pytest.raises(MachineError, match=f"lacks {missing}"):
        make(tmp_path / "ca")
    assert contents(tmp_path / "ca") == before


def test_what_stands_in_the_way_is_left(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir(mode=0o700)
    (tmp_path / "full" / "notes").write_text("mine")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "open").mkdir(mode=0o755)
    for name, seen in (("full", "holds other files"), ("file", "no directory"), ("link", "link"), ("open", "0755")):
        with pytest.raises(MachineError, match=seen):
            make(tmp_path / name)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("named", [".", "..", "below/.."])
def test_where_one_stands_is_not_replaced(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here" / "below").mkdir(mode=0o700, parents=True)
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(UsageError, match="name it from the directory above"):
        make(Path(named))


def test_what_a_killed_call_left_is_swept_whatever_the_name(tmp_path: Path) -> None:
    left = tmp_path / ".ca[1].new.0123"
    left.mkdir(mode=0o700)
    assert make(tmp_path / "ca[1]")
    assert not left.exists()


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        target = Path("/proc/self/ca")
    else:
        (tmp_path / "sealed").mkdir(mode=0o500)
        target = tmp_path / "sealed" / "ca"
    with pytest.raises(MachineError, match="could not"):
        make(target)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(100))

    def fsync(descriptor: int) -> None:
        if next(calls) == 3:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(MachineError, match="No space left"):
        make(tmp_path / "ca")
    assert not list(tmp_path.iterdir())


def test_two_at_once_make_one(tmp_path: Path) -> None:
    made: list[bool] = []
    barrier = threading.Barrier(6)

    def run() -> None:
        barrier.wait()
        made.append(make(tmp_path / "ca"))

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(made) == [False] * 5 + [True]
    assert list(tmp_path.iterdir()) == [tmp_path / "ca"]
    Issuer.from_signer(material.load(tmp_path / "ca"))


KILLED_AT_EVERY_LINE = """
import json, os, signal, sys
from pathlib import Path
from meshpki.ca import material
from meshpki.ca.keys import KeyKind
from meshpki.identity import TrustDomain

base = Path(sys.argv[1])
watched = {material.__file__, material.files.__file__}

def make(directory):
    return material.create(directory, trust_domain=TrustDomain("mesh.local"), now=1_800_000_000)

def child(directory, lines):
    left = [lines]
    def trace(frame, event, argument):
        if frame.f_code.co_filename not in watched:
            return None
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    make(directory)
    os._exit(0)

verdicts = []
for lines in range(1, 2000):
    directory = base / str(lines) / "ca"
    pid = os.fork()
    if pid == 0:
        child(directory, lines)
    _, status = os.waitpid(pid, 0)
    killed = os.WIFSIGNALED(status)
    there = directory.exists()
    before = {p.name: p.read_bytes() for p in directory.iterdir()} if there else {}
    if before and sorted(before) != sorted(material.ALL):
        verdicts.append(f"line {lines}: half a set {sorted(before)}")
    made = make(directory)
    after = {p.name: p.read_bytes() for p in directory.iterdir()}
    if before and before != after or made == bool(before):
        verdicts.append(f"line {lines}: replaced, or not completed")
    beside = [p.name for p in directory.parent.iterdir()]
    if beside != ["ca"] and not before:
        verdicts.append(f"line {lines}: left {beside}")
    material.load(directory)
    modes = {p.name: p.stat().st_mode & 0o777 for p in directory.iterdir()}
    if modes["issuer-key.pem"] != 0o600 or modes["root-key.pem"] != 0o600:
        verdicts.append(f"line {lines}: {modes}")
    if not killed:
        break
print(json.dumps({"lines": lines, "verdicts": verdicts}))
"""


def test_killed_at_every_line_it_ends_the_same(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AT_EVERY_LINE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=150,
    )
    found = json.loads(done.stdout)
    assert found["verdicts"] == []
    assert found["lines"] > 60, "it was not killed often enough to mean anything"


def test_a_call_that_lives_is_not_swept_away(tmp_path: Path) -> None:
    stale = tmp_path / ".ca.new.0011"
    stale.mkdir()
    (stale / "root-key.pem").write_text("half")
    with material._staging(tmp_path / "ca") as living:
        (living / "root-key.pem").write_text("being written")
        make(tmp_path / "ca")
        assert living.exists()
        assert not stale.exists()
    assert list(tmp_path.iterdir()) == [tmp_path / "ca"]


def test_description(tmp_path: Path) -> None:
    make(tmp_path / "ca")
    found = material.describe(tmp_path / "ca", NOW + DAY)
    assert found.trust_domain == MESH
    assert found.root_key_here
    assert found.warnings == ()
    issuer, root = found.certificates
    assert (issuer.role, root.role) == ("issuer", "root")
    assert issuer.subject.endswith("CN=mesh.local issuer")
    assert "serialNumber=" in issuer.subject
    assert issuer.key_kind is KeyKind.EC_P256
    assert (issuer.not_before, issuer.not_after) == (NOW - 3600, NOW + YEAR)
    assert issuer.remaining_seconds == YEAR - DAY
    assert len(issuer.fingerprint) == 64
    assert len(issuer.key_id) == 40
    assert root.not_after == NOW + 3650 * DAY


@pytest.mark.parametrize(
    ("at", "warnings"),
    [
        (NOW + YEAR - 74 * DAY, ()),
        (NOW + YEAR - 20 * DAY, ("the issuer certificate expires in 20 days: renew it",)),
        (NOW + YEAR - 5400, ("the issuer certificate expires in 1 hour: renew it",)),
        (NOW + YEAR, ("the issuer certificate expired 0 seconds ago: nothing can be issued under it",)),
        (
            NOW - 3601,
            (
                "the issuer certificate is not valid for another 1 second: compare the clocks",
                "the root certificate is not valid for another 1 second: compare the clocks",
            ),
        ),
    ],
)
def test_worries(at: int, warnings: tuple[str, ...], tmp_path: Path) -> None:
    make(tmp_path / "ca")
    assert material.describe(tmp_path / "ca", at).warnings == warnings


def test_a_description_of_a_mixed_pair_is_an_error(tmp_path: Path) -> None:
    make(tmp_path / "ca")
    make_authority().write(tmp_path / "other")
    (tmp_path / "ca" / "issuer-key.pem").write_bytes((tmp_path / "other" / "issuer-key.pem").read_bytes())
    with pytest.raises(IntegrityError):
        material.describe(tmp_path / "ca", NOW)


def test_a_description_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match=r"issuer-cert\.pem"):
        material.describe(tmp_path, NOW)


def test_nobody_opens_the_root_key(tmp_path: Path) -> None:
    make(tmp_path / "ca")
    opened: set[str] = set()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened.add(Path(str(arguments[0])).name)

    sys.addaudithook(hook)  # sees every way to open a file; it cannot be taken away, and notes nothing of other tests
    material.load(tmp_path / "ca")
    material.describe(tmp_path / "ca", NOW)
    assert "issuer-key.pem" in opened
    assert "root-key.pem" not in opened
