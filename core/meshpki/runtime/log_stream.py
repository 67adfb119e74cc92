"""Where log lines go: written at once while somebody takes them, and never waited for.

A reader that stands still must not stop what the log is about: not the one thread that takes a server's calls, and
not an agent's loop. So the descriptor is asked before each write whether it takes one now. (O_NONBLOCK would be set for
everybody who has it open, such as the shell.) What it does not take is kept, within a bound, for a thread that waits.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

BACKLOG_BYTES: Final = 1 << 20
"""Kept of what nobody reads. It is the beginning, which tells most; of the rest the number of lines is told."""
LEAVE_SECONDS: Final = 2.0
"""How long the end of a process waits for somebody to read what is kept."""
AT_ONCE: Final = select.PIPE_BUF
"""A pipe that takes anything takes so many bytes without waiting (pipe(7)); terminals and sockets do much the same."""
LOST: Final = "lines of this log were lost: nobody read them, or there was no room for them"
_NO_PROGRESS_SECONDS: Final = 0.05


class PatientHandler(logging.Handler):
    """Writes to the descriptor of a stream. A line that goes through costs one poll(2) more than any handler's."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._descriptor = stream.fileno()
        self._encoding = stream.encoding or "utf-8"
        self._now = self._asking()
        self._kept: deque[tuple[bytes, int]] = deque()
        """What is to be written, and for how many lines it stands."""
        self._size = 0
        self._torn = False
        """What was written last is no whole line."""
        self._lost = 0
        self._waiter: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, keep it, or count it. With this handler's lock, as logging has it."""
        try:
            self._keep(self._line(record), 1)
            self._push()
            if self._kept and self._waiter is None:
                self._wait_for_room()
        except Exception:  # noqa: BLE001 - as every handler does
            self.handleError(record)

    def flush(self) -> None:
        """Wait until all is written, for LEAVE_SECONDS at the most: the process ends."""
        deadline = time.monotonic() + LEAVE_SECONDS
        self.acquire()
        try:
            while self._kept and (left := deadline - time.monotonic()) > 0:
                self._now.poll(left * 1000)
                if not self._push():
                    time.sleep(min(left, _NO_PROGRESS_SECONDS))
        finally:
            self.release()

    def _asking(self) -> select.poll:
        asking = select.poll()
        asking.register(self._descriptor, select.POLLOUT)
        return asking

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(self._encoding, "backslashreplace")

    def _keep(self, line: bytes, lines: int) -> None:
        if self._kept and self._size + len(line) > BACKLOG_BYTES:
            self._lost += lines
            return
        if self._torn and not self._kept:
            line = b"\n" + line
        self._kept.append((line, lines))
        self._size += len(line)

    def _push(self) -> bool:
        """Write what is taken now; whether that was anything."""
        pushed = False
        while self._kept and self._now.poll(0):
            rest, lines = self._kept[0]
            try:
                written = os.write(self._descriptor, rest[:AT_ONCE])
            except BlockingIOError:  # somebody else has set O_NONBLOCK, or was quicker
                break
            except OSError:  # a full disk, a terminal or a reader that is gone
                self._give_up()
                break
            pushed = True
            self._size -= written
            self._torn = written < len(rest)
            if self._torn:
                self._kept[0] = (rest[written:], lines)
                continue
            self._kept.popleft()
            if self._lost and not self._kept:
                lost, self._lost = self._lost, 0
                self._keep(self._line(_word_of(lost)), lost)
        return pushed

    def _give_up(self) -> None:
        self._lost += sum(lines for _, lines in self._kept)
        self._kept.clear()
        self._size = 0

    def _wait_for_room(self) -> None:
        thread = threading.Thread(target=self._wait, args=(self._asking(),), name="log", daemon=True)
        with contextlib.suppress(RuntimeError):  # no more threads: the next line tries again
            thread.start()
            self._waiter = thread

    def _wait(self, asking: select.poll) -> None:
        """Until nothing is kept any more. Holds the lock only where nothing is waited for."""
        while True:
            asking.poll()
            self.acquire()
            try:
                pushed = self._push()
                if not self._kept:
                    self._waiter = None
                    return
            finally:
                self.release()
            if not pushed:
                time.sleep(_NO_PROGRESS_SECONDS)


def _word_of(lost: int) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"name": __name__, "levelno": logging.WARNING, "levelname": "WARNING", "msg": LOST, "lost": lost}
    )
