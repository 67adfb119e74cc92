"""Runs `meshpki`: in this process, as a process of its own, and on a terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from typer.testing import CliRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

COMMAND = (sys.executable, "-P", "-m", "meshpki_cli")
BOUND_SECONDS = 120
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:3|4|9|10)[0-9]")


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command line came to."""

    code: int
    out: str
    err: str


def invoke(*args: str, given: str | bytes = "", env: Mapping[str, str] | None = None) -> Ran:
    """Run in this process: fast, and a fake can be patched in. Never on a terminal."""
    from meshpki_cli.app import app

    result = CliRunner().invoke(app, args, input=given, env=dict(env or {}), prog_name="meshpki")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process's environment without what colours, widens or configures."""
    left_out = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
    kept = {k: v for k, v in os.environ.items() if k not in left_out and not k.startswith("MESHPKI_")}
    return {**kept, "TERM": "xterm-256color", "PYTHONWARNINGS": "error", **(extra or {})}


def spawn(*args: str, given: bytes = b"", env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Ran:
    """Run as a process with pipes, as a script would."""
    done = subprocess.run(
        [*COMMAND, *args],
        input=given,
        capture_output=True,
        env=environment(env),
        cwd=cwd,
        timeout=BOUND_SECONDS,
        check=False,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_terminal(
    *args: str,
    columns: int = 80,
    typed: bytes = b"",
    after: bytes = b"",
    meanwhile: Callable[[], object] = lambda: None,
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Run on a terminal that is `columns` wide, and type `typed` once `after` is to be read on it.

    `meanwhile` is called just before. Both streams are the terminal: all is in `out`.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(env),
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - or Ctrl-C is text
    )
    os.close(theirs)
    timer = threading.Timer(BOUND_SECONDS, process.kill)
    timer.start()
    try:
        shown = _converse(ours, typed, after, meanwhile)
        code = process.wait()
    finally:
        timer.cancel()
        timer.join()
        os.close(ours)
    return Ran(code, shown.decode(errors="replace").replace("\r\n", "\n"), "")


def _converse(descriptor: int, typed: bytes, after: bytes, meanwhile: Callable[[], object]) -> bytes:
    content = b""
    while True:
        if typed and after in content:
            meanwhile()
            os.write(descriptor, typed)
            typed = b""
        try:
            block = os.read(descriptor, 65536)
        except OSError:  # EIO: the other side of a terminal was closed
            return content
        if not block:
            return content
        content += block


def plain(text: str) -> str:
    """The text without its colours."""
    return ESCAPE.sub("", text)


def widest(text: str) -> int:
    """Columns of the widest line, colours not counted."""
    return max((len(line) for line in plain(text).splitlines()), default=0)
