from __future__ import annotations

import logging
from pathlib import Path

import pytest

from meshpki.agent.process.status_file import StatusFile
from meshpki.errors import MachineError


def said(caplog: pytest.LogCaptureFixture, least: int = logging.INFO) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= least]


def test_what_an_earlier_run_wrote_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    path.write_text("old")
    StatusFile(path).begin()
    assert not path.exists()
    StatusFile(path).begin()
    path.mkdir()
    with pytest.raises(MachineError):
        StatusFile(path).begin()


def test_a_file_that_cannot_be_written_is_said_once_and_once_more_when_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    path = tmp_path / "there" / "status.json"
    status = StatusFile(path)
    for content in (b"1", b"2", b"2"):
        status.write(content)
    (warning,) = said(caplog, logging.WARNING)
    assert "could not be written" in warning
    assert len(said(caplog, logging.DEBUG)) == 3, "tried again each time"
    path.parent.mkdir()
    status.write(b"2")
    status.write(b"3")
    assert path.read_bytes() == b"3"
    assert said(caplog)[1:] == ["the status is written again"]
    path.unlink()
    path.parent.rmdir()
    status.write(b"4")
    assert len(said(caplog, logging.WARNING)) == 2, "another time is news again"


def test_what_the_file_holds_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    status = StatusFile(path)
    status.write(b"1")
    before = path.stat().st_ino
    status.write(b"1")
    assert path.stat().st_ino == before
    status.write(b"2")
    assert path.stat().st_ino != before
