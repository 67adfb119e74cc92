"""The log on a real disk: batches, crashes, full disks, floods, other hands."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from meshpki.ca.audit.file import HEAD_BYTES, Head, decode_head, encode_head, head_path
from meshpki.ca.audit.log import BURST, AuditLog
from meshpki.ca.audit.record import GENESIS_HASH, AuditRecord, RecordKind, chain_line, encode_fields
from meshpki.ca.audit.verify import tail, verify
from meshpki.errors import IntegrityError, MachineError, UnavailableError

NOW = 1_800_000_000.0


def open_log(path: Path, *, domain: str = "mesh.local") -> AuditLog:
    return AuditLog.open(path, trust_domain=domain, issuer_key_id="ab12", now=NOW)


def issued(number: int) -> AuditRecord:
    return AuditRecord(RecordKind.ISSUED, "2027-01-15T08:00:00.000Z", serial=f"{number:x}", pod="web-1")


def refused(reason: str = "token_expired") -> AuditRecord:
    return AuditRecord(RecordKind.REFUSED, "2027-01-15T08:00:00.000Z", reason=reason)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "issuance.jsonl"


def filled(path: Path, count: int = 5) -> AuditLog:
    log = open_log(path)
    for number in range(1, count + 1):
        log.append(issued(number))
    return log


def abandon(log: AuditLog) -> None:
    """Let go of the files as a killed process does: nothing is written any more."""
    log._writer.close()


def spy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record what reaches the operating system, in order."""
    events: list[str] = []
    real_sync, real_write = os.fdatasync, os.pwrite

    def sync(descriptor: int) -> None:
        events.append("sync")
        real_sync(descriptor)

    def write(descriptor: int, data: bytes, offset: int) -> int:
        events.append("write")
        return real_write(descriptor, data, offset)

    monkeypatch.setattr(os, "fdatasync", sync)
    monkeypatch.setattr(os, "pwrite", write)
    return events


def test_a_log_from_its_beginning_to_its_end(path: Path) -> None:
    log = filled(path)
    log.note(refused(), verified=False, now=NOW)
    log.flush(NOW)
    log.close(NOW)
    report = verify(path)
    assert report.intact, report.finding
    assert (report.records, report.trust_domain, report.torn_bytes) == (9, "mesh.local", 0)
    assert report.counts == {
        RecordKind.GENESIS: 1,
        RecordKind.STARTED: 1,
        RecordKind.ISSUED: 5,
        RecordKind.REFUSED: 1,
        RecordKind.STOPPED: 1,
    }
    assert [line.record.kind for line in tail(path, 2)] == [RecordKind.REFUSED, RecordKind.STOPPED]
    assert report.last_hash == log.head.hash.hex() == tail(path, 1)[0].hash


def test_files_are_private(path: Path) -> None:
    filled(path).close(NOW)
    assert [oct(file.stat().st_mode & 0o777) for file in (path, head_path(path), path.parent)] == [
        "0o600",
        "0o600",
        "0o700",
    ]


def test_a_record_is_on_the_disk_when_append_returns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(path)
    events = spy(monkeypatch)
    log.append(issued(1))
    assert events == ["write", "sync", "write"]  # the line, its sync, then the head
    assert tail(path, 1)[0].record == issued(1)


def test_the_log_is_synced_at_once_and_the_head_within_the_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a head that was never synced, a power cut would leave a cut of the log that nobody finds."""
    log = open_log(path)
    synced: list[str] = []
    real = os.fdatasync

    def sync(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", sync)
    log.append(issued(1))
    assert synced == [path.name]
    log.flush(NOW)  # as the server does about once a second
    log.flush(NOW)
    assert synced == [path.name, head_path(path).name]


def test_it_goes_on_where_it_stopped(path: Path) -> None:
    filled(path, 3).close(NOW)
    log = filled(path, 2)
    log.close(NOW)
    assert [line.sequence for line in tail(path, 100)] == list(range(10))
    assert verify(path).intact


def test_records_that_come_together_share_a_sync_and_keep_their_order(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log(path)
    events = spy(monkeypatch)
    log.append(*(issued(number) for number in range(1, 17)))
    assert events == ["write", "sync", "write"]
    log.close(NOW)
    serials = [line.record.serial for line in tail(path, 100) if line.record.kind is RecordKind.ISSUED]
    assert serials == [f"{number:x}" for number in range(1, 17)]
    assert verify(path).intact


def test_many_threads_and_none_is_lost(path: Path) -> None:
    log = open_log(path)

    def work(base: int) -> None:
        for number in range(0, 50, 2):
            log.append(issued(base + number), issued(base + number + 1))

    threads = [threading.Thread(target=work, args=(1000 * index,)) for index in range(1, 17)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    log.close(NOW)
    serials = [line.record.serial for line in tail(path, 10_000) if line.record.kind is RecordKind.ISSUED]
    assert sorted(serials) == sorted(f"{1000 * index + number:x}" for index in range(1, 17) for number in range(50))
    assert verify(path).intact


def test_a_failed_write_fails_everyone_who_comes_and_a_later_one_succeeds(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = filled(path, 2)
    real = os.pwrite

    def full(fd: int, data: memoryview, at: int) -> int:
        real(fd, bytes(data)[:40], at)  # half a line is written before the disk is full
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        failures: list[UnavailableError] = []

        def attempt() -> None:
            try:
                log.append(issued(66))
            except UnavailableError as error:
                failures.append(error)

        threads = [threading.Thread(target=attempt) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(failures) == 5
        assert len({id(error) for error in failures}) == 5
        assert "No space left" in str(failures[0])
        assert "No space left" in log.failure
        report = verify(path)
        assert report.intact
        assert report.torn_bytes == 40
    log.append(issued(3))
    assert log.failure == ""
    log.close(NOW)
    assert verify(path).intact
    assert "42" not in [line.record.serial for line in tail(path, 100)]


def test_a_failed_sync_leaves_nothing_behind(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(UnavailableError, match="Input/output"):
            log.append(issued(2))
    log.append(issued(3))
    log.close(NOW)
    assert [line.record.serial for line in tail(path, 3)] == ["1", "3", ""]
    assert verify(path).intact


def test_recovery_needs_no_request_and_is_recorded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = filled(path, 1)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(UnavailableError):
            log.append(issued(2))
        log.note(refused(), verified=True, now=NOW)
        log.flush(NOW)
        log.flush(NOW)
        assert log.failure
    log.flush(NOW)
    assert log.failure == ""
    last = [line.record for line in tail(path, 2)]
    assert [record.kind for record in last] == [RecordKind.REFUSED, RecordKind.RESUMED]
    assert last[1].count == 3
    log.close(NOW)
    assert verify(path).intact


_FILL_UP = """
import resource, signal, sys
from pathlib import Path
from meshpki.ca.audit.record import GENESIS_HASH, AuditRecord, RecordKind, chain_line, encode_fields
from meshpki.ca.audit.log import AuditLog
from meshpki.errors import UnavailableError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
log = AuditLog.open(Path(sys.argv[1]), trust_domain="mesh.local", issuer_key_id="ab", now=0.0)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, resource.RLIM_INFINITY))
record = AuditRecord(RecordKind.ISSUED, "t", detail="x" * 300)
written = failed = 0
for _ in range(20):
    try:
        log.append(record); written += 1
    except UnavailableError:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.append(record)
log.close(0.0)
print(written, failed)
"""


def test_the_operating_system_itself_refuses_to_write(path: Path) -> None:
    """A file size limit of the kernel stands for a full disk: part of a line is written, then EFBIG."""
    done = subprocess.run([sys.executable, "-c", _FILL_UP, str(path)], capture_output=True, text=True, check=True)
    written, failed = map(int, done.stdout.split())
    assert written > 3
    assert failed > 3
    report = verify(path)
    assert report.intact, report.finding
    assert report.counts[RecordKind.ISSUED] == written + 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


@pytest.mark.parametrize("torn", [b"{", b'{"seq":7,"kind":"issued"', b"\x00" * 512, b"x" * 9000])
def test_a_torn_line_is_cut_off_and_the_cut_recorded(path: Path, torn: bytes) -> None:
    abandon(filled(path))
    with path.open("ab") as file:
        file.write(torn)
    assert verify(path).intact
    assert verify(path).torn_bytes == len(torn)
    log = open_log(path)
    cut = tail(path, 2)[0].record
    assert (cut.kind, cut.count, len(cut.detail)) == (RecordKind.CUT, len(torn), 64)
    log.close(NOW)
    assert verify(path).intact
    assert verify(path).torn_bytes == 0


def test_a_crash_between_record_and_head_is_no_alarm(path: Path) -> None:
    log = filled(path, 2)
    old = head_path(path).read_bytes()
    log.append(issued(3))
    abandon(log)
    head_path(path).write_bytes(old)
    assert verify(path).intact
    open_log(path).close(NOW)
    assert verify(path).intact


@pytest.mark.parametrize(
    ("head", "content"),
    [
        (None, b""),
        (b"", b""),
        (encode_head(Head())[:40], b""),
        (encode_head(Head()), b""),
        (encode_head(Head()), b'{"seq":0,"kind":"gen'),
    ],
    ids=["before the head", "before the head is written", "in the head", "before a record", "in the first record"],
)
def test_a_crash_while_the_log_is_made(path: Path, head: bytes | None, content: bytes) -> None:
    path.parent.mkdir(mode=0o700)
    path.write_bytes(content)
    if head is not None:
        head_path(path).write_bytes(head)
    log = filled(path)
    log.close(NOW)
    report = verify(path)
    assert report.intact, report.finding
    assert report.counts[RecordKind.GENESIS] == 1


_KILLED = """
import os, signal, sys
from pathlib import Path
from meshpki.ca.audit.log import AuditLog
calls = 0
def killed(*arguments, real=getattr(os, sys.argv[2])):
    global calls
    calls += 1
    if calls == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments)
setattr(os, sys.argv[2], killed)
AuditLog.open(Path(sys.argv[1]), trust_domain="mesh.local", issuer_key_id="ab", now=0.0)
"""


@pytest.mark.parametrize("call", ["open", "pwrite", "fdatasync", "fsync"])
def test_a_kill_at_any_step_of_making_it_leaves_a_log_that_can_be_begun(path: Path, call: str) -> None:
    for number in range(1, 20):
        for file in (path, head_path(path)):
            file.unlink(missing_ok=True)
        ran = subprocess.run([sys.executable, "-c", _KILLED, str(path), call, str(number)], check=False)
        filled(path).close(NOW)
        report = verify(path)
        assert report.intact, report.finding
        assert report.counts[RecordKind.GENESIS] == 1
        if ran.returncode == 0:
            break
        assert ran.returncode == -signal.SIGKILL
    assert number > 1


@pytest.mark.parametrize("written", [0, 40])
def test_a_full_disk_while_it_is_made_is_said_and_passes(
    path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    real, left = os.pwrite, [written]

    def full(descriptor: int, data: bytes, offset: int) -> int:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        done = real(descriptor, bytes(data)[: left[0]], offset)
        left[0] -= done
        return done

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        with pytest.raises(MachineError, match="No space left") as caught:
            open_log(path)
    assert str(head_path(path)) in str(caught.value)
    assert "free some space" in caught.value.todo
    assert head_path(path).stat().st_size == written
    with pytest.raises(MachineError, match="is empty"):
        verify(path)
    filled(path).close(NOW)
    assert verify(path).intact


def test_a_head_that_cannot_be_synced_is_said_when_the_log_is_opened(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", lambda fd: (_ for _ in ()).throw(OSError(errno.EIO, "Input/output error")))
        with pytest.raises(MachineError, match="Input/output"):
            open_log(path)
    filled(path).close(NOW)


@pytest.mark.parametrize("size", [0, 40, HEAD_BYTES - 1])
def test_a_head_cut_short_beside_records_is_found(path: Path, size: int) -> None:
    abandon(filled(path))
    os.truncate(head_path(path), size)
    assert "damaged" in verify(path).finding
    with pytest.raises(IntegrityError, match="damaged"):
        open_log(path)


def test_what_is_no_log_is_no_sign_of_tampering(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "ca.yaml"
    other.write_text("trust_domain: mesh.local\n")
    for wrong, said in ((tmp_path, "Is a directory"), (other, "is no audit log"), (path, "there is no audit log")):
        with pytest.raises(MachineError, match=said):
            verify(wrong)
    with pytest.raises(IntegrityError, match="is no audit log"):
        open_log(other)
    assert other.read_text() == "trust_domain: mesh.local\n"


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def edit(path: Path, how: str) -> None:
    lines = lines_of(path)
    match how:
        case "a byte in the middle":
            lines[3] = lines[3].replace(b"web-1", b"web-2")
        case "a byte of the last":
            lines[-1] = lines[-1].replace(b"web-1", b"web-2")
        case "a record missing in the middle":
            del lines[3]
        case "the last record missing":
            del lines[-1]
        case "all but the first missing":
            del lines[1:]
        case "half of the last":
            lines[-1] = lines[-1][:30]
        case "the first missing":
            del lines[0]
        case "two swapped":
            lines[3], lines[4] = lines[4], lines[3]
        case "one doubled":
            lines.insert(3, lines[3])
        case "one put in":
            lines.insert(3, b"# a comment\n")
        case "one put behind":
            lines.append(b'{"seq":7,"kind":"issued","time":"t","hash":"' + b"0" * 64 + b'"}\n')
        case "an endless line put behind":
            lines.append(b"x" * 1_000_000)
        case "the last line end missing":
            lines[-1] = lines[-1].rstrip(b"\n")
        case "empty":
            lines = []
    path.write_bytes(b"".join(lines))


EDITS = [
    "a byte in the middle",
    "a byte of the last",
    "a record missing in the middle",
    "the last record missing",
    "all but the first missing",
    "half of the last",
    "the first missing",
    "two swapped",
    "one doubled",
    "one put in",
    "one put behind",
    "an endless line put behind",
    "the last line end missing",
    "empty",
]


@pytest.mark.parametrize("how", EDITS)
def test_every_edit_is_found_and_no_server_starts_on_it(path: Path, how: str) -> None:
    abandon(filled(path))
    edit(path, how)
    report = verify(path)
    assert not report.intact
    assert report.finding
    assert report.todo
    with pytest.raises(IntegrityError):
        open_log(path)


def test_a_log_whose_chain_was_made_anew_does_not_fit_its_head(path: Path) -> None:
    abandon(filled(path))
    previous, forged = GENESIS_HASH, b""
    for sequence, line in enumerate(tail(path, 100)):
        record = replace(line.record, pod=line.record.pod.replace("web-1", "web-2"))
        content, previous = chain_line(previous, sequence, encode_fields(record))
        forged += content
    path.write_bytes(forged)
    assert "rewritten" in verify(path).finding
    with pytest.raises(IntegrityError, match="rewritten"):
        open_log(path)


def test_a_removed_file_is_found(path: Path) -> None:
    abandon(filled(path))
    head = head_path(path).read_bytes()
    head_path(path).unlink()
    assert "missing" in verify(path).finding
    with pytest.raises(IntegrityError, match="missing"):
        open_log(path)
    head_path(path).write_bytes(head)
    path.unlink()
    assert "missing" in verify(path).finding
    with pytest.raises(IntegrityError):
        open_log(path)


def test_a_damaged_head_is_found(path: Path) -> None:
    abandon(filled(path))
    content = bytearray(head_path(path).read_bytes())
    content[5] ^= 1
    head_path(path).write_bytes(content)
    assert "damaged" in verify(path).finding
    with pytest.raises(IntegrityError, match="damaged"):
        open_log(path)


def test_a_log_replaced_together_with_its_head_is_found_by_a_number_noted_elsewhere(path: Path) -> None:
    log = filled(path)
    noted = (log.head.records, log.head.hash.hex())
    log.append(issued(9))
    log.close(NOW)
    assert verify(path, known=noted).intact
    path.unlink()
    head_path(path).unlink()
    filled(path, 3).close(NOW)
    assert verify(path).intact
    assert "replaced" in verify(path, known=noted).finding


def test_a_log_of_another_trust_domain_or_kind_is_refused(path: Path) -> None:
    filled(path).close(NOW)
    with pytest.raises(IntegrityError, match="trust domain"):
        open_log(path, domain="other.local")
    other = path.with_name("notes.txt")
    other.write_text("remember the milk\n")
    with pytest.raises(IntegrityError):
        open_log(other)
    assert other.read_text() == "remember the milk\n"


def test_only_one_writes(path: Path) -> None:
    log = filled(path)
    with pytest.raises(MachineError, match="another process"):
        open_log(path)
    log.close(NOW)
    open_log(path).close(NOW)


def test_a_symbolic_link_is_refused(path: Path, tmp_path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="symbolic link"):
        open_log(path)


@pytest.mark.parametrize("how", ["deleted", "replaced", "cut"])
def test_a_log_taken_away_under_the_server_stops_it_from_issuing(path: Path, how: str) -> None:
    log = filled(path)
    match how:
        case "deleted":
            path.unlink()
        case "replaced":
            path.rename(path.with_name("old"))
            path.write_bytes(b"")
        case "cut":
            os.truncate(path, 100)
    log.flush(NOW)
    with pytest.raises(UnavailableError, match="moved, deleted or cut"):
        log.append(issued(7))
    assert log.failure
    log.flush(NOW)
    log.close(NOW)


def test_a_flood_of_refusals_is_counted_not_written(path: Path) -> None:
    log = open_log(path)
    size = path.stat().st_size
    for second in range(60):
        for _ in range(1000):
            log.note(refused("token_malformed"), verified=False, now=NOW + second)
        log.flush(NOW + second)
    log.note(refused("csr_signature"), verified=True, now=NOW + 60)
    log.close(NOW + 60)
    assert path.stat().st_size - size < 60_000
    records = [line.record for line in tail(path, 10_000)]
    single = [record for record in records if record.reason == "token_malformed" and record.kind is RecordKind.REFUSED]
    summed = [record for record in records if record.kind is RecordKind.SUPPRESSED]
    assert BURST <= len(single) <= BURST + 60
    assert len(summed) <= 7
    assert len(single) + sum(record.count for record in summed) == 60_000
    assert [record.reason for record in records].count("csr_signature") == 1
    assert verify(path).intact


def test_refusals_wait_for_no_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", lambda *_: pytest.fail("wrote"))
        log.note(refused(), verified=False, now=NOW)
    log.append(issued(1))
    assert [line.record.kind for line in tail(path, 2)] == [RecordKind.ISSUED, RecordKind.REFUSED]
    log.close(NOW)


@pytest.mark.parametrize("line", [b"", b"{}", b"[" * 200_000], ids=["empty", "another object", "deep"])
def test_tail_says_how_to_find_out_where_a_line_is_none(line: bytes, path: Path) -> None:
    filled(path).close(NOW)
    with path.open("ab") as log:
        log.write(line + b"\n")
    with pytest.raises(IntegrityError, match=r"cannot be read.*to do: find out where: meshpki audit verify"):
        tail(path, 3)


def test_tail_of_a_long_log(path: Path) -> None:
    log = filled(path, 400)
    log.close(NOW)
    assert len(tail(path, 10_000)) == 403
    assert [line.sequence for line in tail(path, 150)] == list(range(253, 403))
    assert tail(path, 0) == ()
    with path.open("ab") as file:
        file.write(b'{"seq":403,')
    assert tail(path, 1)[0].sequence == 402


def test_the_head_is_one_line_of_fixed_size() -> None:
    for head in (Head(), Head(10**18, b"\xab" * 32)):
        assert len(encode_head(head)) == HEAD_BYTES
        assert decode_head(encode_head(head)) == head
    assert decode_head(b"") is None
