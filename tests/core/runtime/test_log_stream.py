"""The log's way out: at once while somebody takes it, in order, nothing lost; and nobody waits for who does not."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import subprocess
import sys
import threading
from collections import deque
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from meshpki.runtime import logs
from meshpki.runtime.log_stream import BACKLOG_BYTES, LOST, PatientHandler
from support.agent_process import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BOUND = 60.0
F_SETPIPE_SZ = 1031
SMALL = 4096


def say(handler: logging.Handler, text: str, **more: object) -> None:
    handler.handle(logging.makeLogRecord({"msg": text, "levelname": "INFO", **more}))


class Line:
    """A log that writes to a pipe of one page."""

    def __init__(self, stack: ExitStack) -> None:
        self.ours, theirs = os.pipe()
        fcntl.fcntl(theirs, F_SETPIPE_SZ, SMALL)
        self.stream = stack.enter_context(os.fdopen(theirs, "w"))
        self.handler = PatientHandler(self.stream)
        self.handler.setFormatter(logging.Formatter("%(message)s"))
        self.reader: Iterator[str] = iter(stack.enter_context(os.fdopen(self.ours)))

    def say(self, *lines: str) -> None:
        """Log them in a thread of their own, which must not be held up."""

        def run() -> None:
            for line in lines:
                say(self.handler, line)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(BOUND)
        assert not thread.is_alive(), "whoever logs waits for the reader"

    def read(self, lines: int) -> list[str]:
        return [next(self.reader).rstrip("\n") for _ in range(lines)]


@pytest.fixture
def pipe() -> Iterator[Line]:
    with ExitStack() as stack:
        yield Line(stack)


def numbered(count: int, width: int = 100) -> list[str]:
    return [f"{number} ".ljust(width, "x") for number in range(count)]


def test_what_is_said_is_written_when_it_returns_and_by_nobody_else(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        handler = PatientHandler(stream)
        for line in numbered(100, 10_000):
            say(handler, line)
            assert path.read_text().endswith(f"{line}\n")
        assert handler._waiter is None
    assert path.read_text().splitlines() == numbered(100, 10_000)


def test_nobody_waits_for_a_reader_and_all_comes_in_order_when_he_is_back(pipe: Line) -> None:
    said = numbered(1000)
    pipe.say(*said[:500])
    assert pipe.read(250) == said[:250]
    pipe.say(*said[500:])
    assert pipe.read(750) == said[250:]
    wait_until(lambda: pipe.handler._waiter is None, "nobody waits any more", BOUND)
    pipe.say("at once")
    assert pipe.read(1) == ["at once"]
    assert pipe.handler._waiter is None


def test_a_line_longer_than_the_pipe_comes_whole(pipe: Line) -> None:
    said = ["short", "long".ljust(50 * SMALL, "x"), "short again"]
    pipe.say(*said)
    assert pipe.read(3) == said


def test_beyond_its_bound_the_beginning_is_kept_and_the_rest_is_counted(pipe: Line) -> None:
    said = numbered(BACKLOG_BYTES // 1000 + 100, 999)
    pipe.say(*said)
    assert pipe.handler._size <= BACKLOG_BYTES
    kept = len(said) - pipe.handler._lost
    assert 0 < kept < len(said)
    assert pipe.read(kept) == said[:kept]
    assert pipe.read(1) == [LOST]
    pipe.say("and on it goes")
    assert pipe.read(1) == ["and on it goes"]


def test_how_many_were_lost_is_a_field_of_its_line(pipe: Line) -> None:
    pipe.handler.setFormatter(logs.JsonFormatter())
    pipe.handler._lost = 7
    pipe.say("one")
    lines = [json.loads(line) for line in pipe.read(2)]
    assert [line["message"] for line in lines] == ["one", LOST]
    assert (lines[1]["lost"], lines[1]["level"]) == (7, "warning")


def test_a_full_disk_loses_lines_and_says_how_many_once_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with open("/dev/full", "w") as full, path.open("w") as good:  # noqa: PTH123 - two alike
        handler = PatientHandler(full)
        handler.setFormatter(logs.JsonFormatter())
        for number in range(5):
            say(handler, "into nothing", number=number)
        os.dup2(good.fileno(), full.fileno())
        say(handler, "there is room")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["message"] for line in lines] == ["there is room", LOST]
    assert lines[1]["lost"] == 5


def test_what_was_cut_off_does_not_spoil_the_next_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        handler = PatientHandler(stream)
        os.write(stream.fileno(), b"half of a li")
        handler._torn = True
        say(handler, "whole")
        say(handler, "whole again")
    assert path.read_text().splitlines() == ["half of a li", "whole", "whole again"]


def test_a_reader_who_is_gone_is_nobodys_trouble(pipe: Line, capfd: pytest.CaptureFixture[str]) -> None:
    pipe.say(*numbered(100))
    assert pipe.read(1)
    pipe.handler.acquire()
    try:
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, pipe.ours)  # closes the only reading end
        os.close(nowhere)
    finally:
        pipe.handler.release()
    pipe.say(*numbered(10))
    wait_until(lambda: pipe.handler._waiter is None, "nobody waits for him", BOUND)
    assert pipe.handler._kept == deque()
    assert capfd.readouterr().err == ""


def test_a_descriptor_that_does_not_block_is_waited_for_all_the_same(pipe: Line) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    said = numbered(300)
    pipe.say(*said)
    assert pipe.read(300) == said


def test_without_another_thread_the_next_line_brings_what_was_kept(pipe: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    said = numbered(200)
    with monkeypatch.context() as patch:
        start = threading.Thread.start
        patch.setattr(threading.Thread, "start", lambda self: none(self) if self.name == "log" else start(self))
        pipe.say(*said[:100])
    assert pipe.handler._waiter is None
    pipe.say(*said[100:])
    assert pipe.read(200) == said


_ENDS = """
import logging, sys
from meshpki.runtime import log_stream, logs
log_stream.LEAVE_SECONDS = float(sys.argv[1])
logs.configure("info")
for number in range(3000):
    logging.info("line %d", number)
print("done", flush=True)
"""


def ending(seconds: float) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-P", "-c", _ENDS, str(seconds)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"done\n"
    return process


def test_at_the_end_of_a_process_nothing_is_lost_if_somebody_reads() -> None:
    with ending(BOUND) as process:
        _, said = process.communicate(timeout=2 * BOUND)
    assert process.returncode == 0
    assert [json.loads(line)["message"] for line in said.splitlines()] == [f"line {number}" for number in range(3000)]


def test_nor_does_it_wait_for_ever_for_who_does_not() -> None:
    with ending(0.2) as process:
        assert process.wait(BOUND) == 0
        _, said = process.communicate(timeout=BOUND)
    assert json.loads(said.splitlines()[0])["message"] == "line 0"


def test_what_has_a_descriptor_is_written_to_so(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        logs.configure("info", stream=stream)
        assert isinstance(logging.getLogger().handlers[0], PatientHandler)
