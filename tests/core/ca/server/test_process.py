"""The server as a process: signals, kill -9 under load, its log."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from meshpki.ca.audit.record import RecordKind
from meshpki.ca.audit.verify import tail, verify
from support.authority import make_authority
from support.ca_server import CONFIG, SERVE, SERVER_NAME, CallFailedError, CaProcess, make_config
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.e2e


def load(server: CaProcess, received: list[str], stop: threading.Event, failed: list[CallFailedError]) -> None:
    """Ask for certificates until told to stop or refused; note the serials of those that came."""
    maker = TokenMaker()
    while not stop.is_set():
        try:
            chain = server.client.sign(maker.token(now=time.time()))
        except CallFailedError as error:
            failed.append(error)
            return
        received.append(f"{x509.load_pem_x509_certificate(chain[0].encode()).serial_number:x}")


def under_load(server: CaProcess, wanted: int, then: Callable[[], object]) -> tuple[list[str], list[CallFailedError]]:
    """Run eight clients; do `then` once so many certificates came; what came and what failed."""
    received: list[str] = []
    failed: list[CallFailedError] = []
    stop = threading.Event()
    threads = [threading.Thread(target=load, args=(server, received, stop, failed)) for _ in range(8)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while len(received) < wanted and time.monotonic() < deadline and not failed:
        time.sleep(0.005)
    then()
    stop.set()
    for thread in threads:
        thread.join(60)
    assert len(received) >= wanted
    return received, failed


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_drains_and_ends_with_0(tmp_path: Path, number: int) -> None:
    server = CaProcess(tmp_path, make_authority(), TokenMaker())
    received, failed = under_load(server, 50, lambda: server.process.send_signal(number))
    assert server.process.wait(60) == 0
    server.client.close()
    # grpcio cancels calls that it has not begun to serve; istio-agent tries both again.
    assert {error.code.name for error in failed} <= {"UNAVAILABLE", "CANCELLED"}
    report = verify(server.audit)
    assert report.intact, report.finding
    issued = [line.record.serial for line in tail(server.audit, 100_000) if line.record.kind is RecordKind.ISSUED]
    assert sorted(issued) == sorted(received)  # every call that was begun got its answer
    assert tail(server.audit, 1)[0].record.kind is RecordKind.STOPPED


def test_a_signal_that_another_thread_takes_is_heeded_too(tmp_path: Path) -> None:
    """As after SIGSTOP, when the first to go on takes what waits; Python's handlers run in the main one alone."""
    server = CaProcess(tmp_path, make_authority(), TokenMaker())
    others = [int(task.name) for task in Path(f"/proc/{server.process.pid}/task").iterdir()]
    others.remove(server.process.pid)
    waits, quiet = Path(f"/proc/{server.process.pid}/wchan"), 0
    while quiet < 20:
        time.sleep(0.02)
        quiet = quiet + 1 if "futex" in waits.read_text() else 0
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.tgkill(server.process.pid, min(others), int(signal.SIGTERM)) == 0
    assert server.process.wait(60) == 0
    server.client.close()


def test_kill_9_under_load_loses_no_record_of_a_certificate_that_left(tmp_path: Path) -> None:
    authority, maker = make_authority(), TokenMaker()
    everything: list[str] = []
    for _ in range(3):
        server = CaProcess(tmp_path, authority, maker)
        server.log.write_text("")
        received, _ = under_load(server, 60, server.process.kill)
        assert server.process.wait(60) == -signal.SIGKILL
        server.client.close()
        everything += received
        report = verify(server.audit)
        assert report.intact, report.finding
    assert len(set(everything)) == len(everything)
    recorded = {line.record.serial for line in tail(server.audit, 100_000) if line.record.kind is RecordKind.ISSUED}
    assert set(everything) <= recorded
    assert report.counts[RecordKind.STARTED] == 3


def test_a_disk_that_is_full_at_the_very_first_start_is_said_and_the_next_start_succeeds(tmp_path: Path) -> None:
    authority, maker = make_authority(), TokenMaker()
    make_config(tmp_path, maker, authority=authority)
    (tmp_path / "ca.yaml").write_text(CONFIG.format(name=SERVER_NAME, issuer=maker.issuer, jwks="{file: jwks-0.json}"))
    full = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]
    ran = subprocess.run([*full, *SERVE], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 1
    assert "issuance.jsonl.head" in ran.stderr
    assert (tmp_path / "audit/issuance.jsonl.head").stat().st_size == 0
    server = CaProcess(tmp_path, authority, maker)
    assert len(server.client.sign(maker.token(now=time.time()))) == 3
    assert server.end(signal.SIGTERM) == 0
    assert verify(server.audit).intact


def test_the_log_of_a_process_holds_no_token(tmp_path: Path) -> None:
    server = CaProcess(tmp_path, make_authority(), TokenMaker())
    good = TokenMaker().token(now=time.time())
    bad = TokenMaker().token(now=time.time(), audience=["other"])
    server.client.sign(good)
    with pytest.raises(CallFailedError):
        server.client.sign(bad)
    assert server.end(signal.SIGTERM) == 0
    text = server.log.read_text() + server.audit.read_text()
    assert "token_wrong_audience" in text
    for token in (good, bad):
        assert not any(part.decode() in text for part in token.split(b"."))
