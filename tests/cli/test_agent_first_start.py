"""What a newcomer's first `meshpki agent run` says: one line for each thing that is missing, and what to do."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import command_line
from support.agent_process import fake_token
from support.fake_ca import FakeAuthority

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BOTH = ("pod", "node")
AS_ROOT = os.geteuid() == 0


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory in which nothing is missing but the CA."""
    path = Path(tempfile.mkdtemp(prefix="mpf-", dir="/tmp"))
    (path / "roots.pem").write_bytes(FakeAuthority().roots_pem)
    (path / "token").write_text(fake_token(expires_at=time.time() + 3600))
    yield path
    shutil.rmtree(path)


def options(place: Path, mode: str, **changes: str) -> list[str]:
    """The command line of a start at which nothing is missing, with these options otherwise."""
    values = {
        "ca-address": "127.0.0.1:1",
        "ca-roots": str(place / "roots.pem"),
        "ca-server-name": "localhost",
        "sds-socket": str(place / "s" / "sds.sock"),
        **({"token-file": str(place / "token")} if mode == "pod" else {}),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    return [*(["--node"] if mode == "node" else []), *(f"--{name}={value}" for name, value in values.items())]


@contextmanager
def started(place: Path, arguments: list[str]) -> Iterator[Callable[[], list[dict[str, Any]]]]:
    """The agent as a process; gives what reads the complaints in its log so far."""
    log = place / "log"

    def complaints() -> list[dict[str, Any]]:  # Any: JSON, looked at field by field in assertions
        lines = [line for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]
        return [said for line in lines if (said := json.loads(line))["level"] in {"warning", "error"}]

    with log.open("wb") as file:
        process = subprocess.Popen(
            [*command_line.COMMAND, "agent", "run", *arguments],
            stderr=file,
            stdin=subprocess.DEVNULL,
            env=command_line.environment(),
        )
    try:
        yield complaints
    finally:
        process.kill()
        process.wait()


def first_complaint(place: Path, arguments: list[str]) -> dict[str, Any]:
    with started(place, arguments) as complaints:
        end = time.monotonic() + 60
        while not (said := complaints()):
            assert time.monotonic() < end, (place / "log").read_text()
            time.sleep(0.05)
        return said[0]


@pytest.mark.parametrize("mode", BOTH)
@pytest.mark.parametrize("content", [None, b"", b"no certificates"], ids=["missing", "empty", "something else"])
def test_without_roots_it_says_where_it_looked(place: Path, mode: str, content: bytes | None) -> None:
    roots = place / "other.pem"
    if content is not None:
        roots.write_bytes(content)
    said = first_complaint(place, options(place, mode, ca_roots=str(roots)))
    assert said["message"].startswith("there are no roots yet")
    assert str(roots) in said["seen"]
    assert "PEM certificates" in said["wanted"]
    assert "--ca-roots" in said["todo"]
    assert "root-cert.pem" in said["todo"]


def test_each_attempt_without_roots_says_so_too_and_so_does_the_status(place: Path) -> None:
    """Whoever looks later sees the last lines of a log, not the first."""
    roots, status = place / "nowhere.pem", place / "status.json"
    with started(place, options(place, "pod", ca_roots=str(roots), status_file=str(status))) as complaints:
        end = time.monotonic() + 60
        while len(complaints()) < 2 or not status.is_file() or "failure" not in status.read_text():
            assert time.monotonic() < end
            time.sleep(0.05)
        for said in (complaints()[1]["seen"], status.read_text()):
            assert "there are no roots to check the CA by" in said
            assert str(roots) in said
        assert "--ca-roots" in complaints()[1]["todo"]


def test_without_a_token_it_says_where_it_looked(place: Path) -> None:
    said = first_complaint(place, options(place, "pod", token_file=str(place / "nowhere")))
    assert said["seen"] == f"there is no token file {place}/nowhere"
    assert said["todo"] == "see that the token is projected there, or name another file"


def test_without_a_ca_it_says_where_it_looked(place: Path) -> None:
    said = first_complaint(place, options(place, "pod", ca_address="127.0.0.1:1"))
    assert "the CA at 127.0.0.1:1" in said["seen"]
    assert said["todo"] == "check that the CA is running and that this machine can reach it"


def refused(place: Path, mode: str, **changes: str) -> dict[str, Any]:
    ran = command_line.spawn("agent", "run", *options(place, mode, **changes))
    assert ran.code == 1
    (said,) = [said for line in ran.err.splitlines() if (said := json.loads(line))["level"] == "error"]
    return dict(said)


@pytest.mark.parametrize("mode", BOTH)
def test_a_port_in_use_is_said_with_the_option(place: Path, mode: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = refused(place, mode, http=address)
    assert address in said["message"]
    assert said["todo"] == "stop what listens there, or name another address in --http"


def test_an_address_of_another_machine_is_said_with_the_option(place: Path) -> None:
    said = refused(place, "pod", http="192.0.2.1:15020")
    assert said["todo"] == "name an address of this machine in --http, for example 127.0.0.1 or 0.0.0.0"


@pytest.mark.parametrize("mode", BOTH)
def test_a_socket_directory_that_is_no_good_is_said(place: Path, mode: str) -> None:
    (place / "file").touch()
    (place / "link").symlink_to(place)
    (place / "open").mkdir(mode=0o755)
    for directory, message in {"file": "is no directory", "link": "is a symbolic link", "open": "has mode"}.items():
        said = refused(place, mode, sds_socket=str(place / directory / "sds.sock"))
        assert str(place / directory) in said["message"]
        assert message in said["message"]
        assert said["wanted"]
        assert said["todo"]


@pytest.mark.skipif(not AS_ROOT, reason="only root can give a directory away")
@pytest.mark.parametrize("mode", BOTH)
def test_a_socket_directory_of_somebody_else_is_said(place: Path, mode: str) -> None:
    (place / "theirs").mkdir(mode=0o750)
    os.chown(place / "theirs", 65534, 65534)
    said = refused(place, mode, sds_socket=str(place / "theirs" / "sds.sock"))
    assert said["message"] == f"{place}/theirs belongs to user 65534"
    assert said["todo"] == "name another directory, or run as its owner"
