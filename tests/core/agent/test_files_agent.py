"""Files of an agent as a process: who is told of a renewal, and that the socket serves whatever the disk does."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from spiffe import WorkloadApiClient

from support.agent_process import AgentFiles, AgentProcess, wait_until
from support.crowd import numbers_in, page
from support.node_agent import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.fake_ca import FakeCa

pytestmark = pytest.mark.e2e

ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="needs to mount, or to give files away")


def served(files: AgentFiles) -> int:
    """The serial of the certificate on the socket."""
    with WorkloadApiClient(f"unix://{files.socket}", default_timeout=60) as client:
        return client.fetch_x509_svid().leaf.serial_number


def written(files: AgentFiles) -> int:
    """The serial of the certificate in the files; 0 without one."""
    return serial_in(files.certs)


def serial_in(directory: Path) -> int:
    try:
        return x509.load_pem_x509_certificate((directory / "cert-chain.pem").read_bytes()).serial_number
    except OSError:
        return 0


def test_a_command_runs_after_each_renewal(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 3
    told = files.directory / "told"
    script = files.directory / "reload.sh"
    script.write_text(f"#!/bin/sh\ncat $MESHPKI_FILES/cert-chain.pem $MESHPKI_FILES/key.pem\necho done >> {told}\n")
    script.chmod(0o700)
    with AgentProcess(replace(files.config(ca), files_command=str(script)), files.log):
        wait_until(lambda: told.exists() and told.read_text().count("done") >= 3, "three times")
        key = (files.certs / "key.pem").read_bytes()
    log = files.log.read_text()
    assert "the command after a change has run" in log
    assert "BEGIN CERTIFICATE" in log, "what it said is in the log"
    assert not any(line.decode() in log for line in key.splitlines()[1:-1]), "but for what looks like a key"


def test_a_program_is_signalled_after_each_renewal(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 3
    told, pid_file = files.directory / "told", files.directory / "pid"
    code = f"trap 'echo again >> {told}' HUP; echo $$ > {pid_file}; while :; do sleep 0.05; done"
    with subprocess.Popen(["/bin/sh", "-c", code]) as program:
        try:
            wait_until(lambda: pid_file.exists() and pid_file.read_text(), "a pid file")
            with AgentProcess(replace(files.config(ca), files_signal=f"HUP:{pid_file}"), files.log):
                wait_until(lambda: told.exists() and told.read_text().count("again") >= 3, "three times")
        finally:
            program.kill()


@ROOT
def test_mode_and_owner(ca: FakeCa, files: AgentFiles) -> None:
    with AgentProcess(replace(files.config(ca), files_mode=0o440, files_owner="12345:12346"), files.log):
        wait_until(lambda: written(files), "files")
        status = (files.certs / "credential-bundle.pem").stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (12345, 12346, 0o440)


def test_with_trouble_from_the_start_the_socket_serves_and_the_files_come_when_it_is_over(
    ca: FakeCa, files: AgentFiles
) -> None:
    files.certs.write_text("in the way")
    with AgentProcess(files.config(ca), files.log):
        wait_until(lambda: files.read_status().get("state") == "fresh", "fresh")
        assert served(files)
        assert files.certs.read_text() == "in the way"
        files.certs.unlink()
        wait_until(lambda: written(files) == served(files), "the files")


def test_without_a_socket_trouble_from_the_start_is_the_end(ca: FakeCa, files: AgentFiles) -> None:
    files.certs.write_text("in the way")
    agent = AgentProcess(replace(files.config(ca), sds_socket=None), files.log).start()
    assert agent.process is not None
    assert agent.process.wait(60) == 1
    assert "no directory" in files.log.read_text()
    assert ca.calls == []


@contextmanager
def small_disk(path: Path, options: str) -> Iterator[None]:
    """A file system of its own, or no test where that may not be."""
    path.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no mount: {done.stderr.decode().strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def fill(disk: Path) -> None:
    ballast = (disk / "ballast").open("wb", buffering=0)
    with ballast, pytest.raises(OSError, match="No space"):
        while True:
            ballast.write(b"x" * 4096)


@ROOT
def test_a_full_disk_stops_neither_socket_nor_the_old_set(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 6
    disk = files.directory / "disk"
    with small_disk(disk, "size=256k,mode=0755"):
        there = replace(files.config(ca), files=disk / "certs")
        with AgentProcess(there, files.log):
            wait_until((disk / "certs" / "..data").exists, "files")
            fill(disk)
            before = (disk / "certs" / "cert-chain.pem").read_bytes()
            old = served(files)
            wait_until(lambda: served(files) != old, "the socket has the next one")
            wait_until(lambda: "No space left" in files.log.read_text(), "a word about the disk")
            assert (disk / "certs" / "cert-chain.pem").read_bytes() == before
            (disk / "ballast").unlink()
            wait_until(lambda: (disk / "certs" / "cert-chain.pem").read_bytes() != before, "the files caught up")


@ROOT
def test_readiness_metrics_and_status_are_true_of_the_files(ca: FakeCa, files: AgentFiles) -> None:
    """Where there is no socket the files are all that the workload has: renewals alone are of no use to it."""
    ca.life = 6
    disk, (port,) = files.directory / "disk", free_ports(1)
    with small_disk(disk, "size=256k,mode=0755"):
        alone = replace(files.config(ca), sds_socket=None, files=disk / "certs", http=f"127.0.0.1:{port}")
        with AgentProcess(alone, files.log):
            wait_until(lambda: serial_in(disk / "certs"), "files")
            wait_until(lambda: page(port, "/readyz") == (200, "ok\n"), "ready")
            (expiry,) = expiries(port)
            fill(disk)
            wait_until(lambda: "No space left" in files.log.read_text(), "a word about the disk")
            wait_until(lambda: page(port, "/readyz")[0] == 503, "not ready", 30)
            why = page(port, "/readyz")[1]
            assert why.startswith("the certificate in the files expired ")
            assert "No space left on device" in why
            assert max(expiries(port)) < time.time(), "what an alert on the expiry of all certificates sees"
            numbers = numbers_in(page(port, "/metrics")[1])
            assert numbers.of("certificate_state", state="fresh") == 1, "the CA and the renewals are well"
            assert numbers.of("files_write_failures_total") >= 1
            wait_until(lambda: "No space left" in files.read_status()["files"]["trouble"], "the status says so")
            over = "has expired, and no newer one can be written"
            wait_until(lambda: over in files.log.read_text(), "an error in the log, with the next try")
            (disk / "ballast").unlink()
            wait_until(lambda: page(port, "/readyz") == (200, "ok\n"), "ready again")
            assert max(expiries(port)) > expiry


def expiries(port: int) -> list[float]:
    """What the metrics say of the certificate in the files: one number, or none."""
    samples = numbers_in(page(port, "/metrics")[1]).samples
    return [each.value for each in samples if each.name == "meshpki_agent_files_expiration_timestamp_seconds"]


@ROOT
def test_a_disk_that_turns_read_only_does_not_either(ca: FakeCa, files: AgentFiles) -> None:
    ca.life = 6
    disk = files.directory / "disk"
    there = replace(files.config(ca), files=disk / "certs")
    with small_disk(disk, "size=1m,mode=0755"), AgentProcess(there, files.log):
        wait_until((disk / "certs" / "..data").exists, "files")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        old = served(files)
        wait_until(lambda: served(files) != old, "the socket has the next one")
        wait_until(lambda: "read-only" in files.log.read_text().lower(), "a word about the disk")
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        wait_until(lambda: serial_in(disk / "certs") == served(files), "the files caught up")
