"""Readers in loops over a thousand rotations, each a process of its own: none ever sees parts of two sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

pytestmark = pytest.mark.e2e

ROTATIONS = 1000
TESTS = Path(__file__).parents[2]

WRITER = """
import sys
from pathlib import Path
from support.snapshots import snapshot
from meshpki.agent.files.set import FileSet
files = FileSet(Path(sys.argv[1]))
for serial in range(2, int(sys.argv[2]) + 2):
    files.write(snapshot(serial, bundle=b"roots %d" % serial))
"""

LOOP = """
import json, os, re, sys
from pathlib import Path
directory, stop = Path(sys.argv[1]), Path(sys.argv[2])
def numbers(*contents):
    return {int(number) for content in contents for number in re.findall(rb"(?:key|chain|roots) (\\d+)", content)}
def look():
    BODY
seen, mixed, again, reads = set(), [], 0, 0
print("ready", flush=True)
last = False
while not last:
    last = stop.exists()  # and one look more, at the last set
    try:
        found = look()
    except FileNotFoundError:  # two changes while we looked: look again
        again += 1
        continue
    reads += 1
    seen |= found
    if len(found) != 1:
        mixed.append(sorted(found))
print(json.dumps({"reads": reads, "again": again, "sets": len(seen), "newest": max(seen), "mixed": mixed[:5]}))
"""

BY_DIRECTORY = """
    data = os.open(directory / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        contents = []
        for name in ("key.pem", "cert-chain.pem", "root-cert.pem", "credential-bundle.pem"):
            with os.fdopen(os.open(name, os.O_RDONLY, dir_fd=data), "rb") as file:
                contents.append(file.read())
        return numbers(*contents)
    finally:
        os.close(data)
"""
BY_PATH = """
    base = Path(os.path.realpath(directory / "..data", strict=True))
    return numbers(*((base / name).read_bytes() for name in ("root-cert.pem", "cert-chain.pem", "key.pem")))
"""
BY_BUNDLE = """
    return numbers((directory / "credential-bundle.pem").read_bytes())
"""


ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}


def rotate(writer: str, directory: Path, times: int) -> None:
    subprocess.run([sys.executable, "-c", writer, directory, str(times)], check=True, timeout=150, env=ENVIRONMENT)


def reader(body: str, directory: Path, stop: Path) -> subprocess.Popen[str]:
    argv: list[str | Path] = [sys.executable, "-c", LOOP.replace("BODY", body.strip()), directory, stop]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT)


def rotate_under(tmp_path: Path, readers: Sequence[str], writer: str = WRITER) -> list[dict[str, object]]:
    """Start the readers, rotate, stop them; gives what each one reports."""
    directory, stop = tmp_path / "certs", tmp_path / "stop"
    rotate(writer, directory, 1)
    processes = [reader(body, directory, stop) for body in readers]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        rotate(writer, directory, ROTATIONS)
        stop.touch()
        return [json.loads(process.communicate(timeout=30)[0]) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def test_no_reader_ever_sees_a_mixed_set(tmp_path: Path) -> None:
    reports = rotate_under(tmp_path, [BY_DIRECTORY, BY_PATH, BY_BUNDLE])
    for report in reports:
        assert report["mixed"] == []
        assert report["newest"] == ROTATIONS + 1
        assert int(str(report["sets"])) > 50, report


def test_the_readers_would_notice_a_mixed_set(tmp_path: Path) -> None:
    """The control: a writer that changes the files one by one, without a set, is caught."""
    plain = """
import sys
from pathlib import Path
directory = Path(sys.argv[1])
for place in (directory, directory / "..data"):
    place.mkdir(exist_ok=True)
for serial in range(2, int(sys.argv[2]) + 2):
    for name, what in (("key", "key"), ("cert-chain", "chain"), ("root-cert", "roots"), ("credential-bundle", "key")):
        for place in (directory, directory / "..data"):
            passing = place / "passing"
            passing.write_text(f"{what} {serial}")
            passing.rename(place / f"{name}.pem")
"""
    reports = rotate_under(tmp_path, [BY_DIRECTORY, BY_PATH], plain)
    assert all(report["mixed"] for report in reports), reports
