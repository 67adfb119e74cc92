"""Runs the command that an operator wants after a change of the files: no shell, bounded in time and in output."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MachineError
from meshpki.runtime.files import machine_errors
from meshpki.runtime.logs import redact

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from meshpki.agent.files.notice import CommandNotice

log = logging.getLogger(__name__)

MAX_OUTPUT: Final = 4096
"""Bytes of output that are kept, from its beginning; the rest is read and dropped."""
DIRECTORY_VARIABLE: Final = "MESHPKI_FILES"
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_BASE64: Final = re.compile(r"[A-Za-z0-9+/=]{40,}")
"""A line of a key, even when the line that says so is not beside it."""


async def run(command: CommandNotice, directory: Path) -> None:
    """Run it to its end. Raises MachineError when it cannot be started, fails, or takes too long.

    It gets the directory of the files as MESHPKI_FILES, and nothing else of the agent's environment. What it starts
    and leaves behind goes on, but is killed with it when the time is over.
    """
    began, program = time.monotonic(), command.arguments[0]
    with contextlib.ExitStack() as stack:
        with machine_errors("could not run", Path(program)):
            output = stack.enter_context(_Output())
            process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output.writer,
                stderr=output.writer,
                cwd="/",
                env={"PATH": _PATH, "LANG": "C.UTF-8", DIRECTORY_VARIABLE: str(directory)},
                start_new_session=True,
            )
        try:
            async with asyncio.timeout(command.seconds):
                status = await process.wait()
        except TimeoutError as error:
            raise MachineError(
                f"{program} did not end within {command.seconds:g} s and was killed; it said: {output.text()!r}",
                todo="see what it waits for; a program that stays has to be signalled instead",
            ) from error
        finally:
            if process.returncode is None:
                await _kill(process)
        said = output.text()
    if status:
        raise MachineError(f"{program} ended with {_ending(status)}; it said: {said!r}", todo="run it by hand")
    log.info(
        "the command after a change has run",
        extra={"command": program, "seconds": round(time.monotonic() - began, 3), "said": said},
    )


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End the whole session that began with the command, and wait for its first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _ending(status: int) -> str:
    return f"exit status {status}" if status > 0 else f"signal {-status}"


class _Output:
    """A pipe for a command's output. Its end is not waited for: what a command leaves behind may hold it open."""

    def __enter__(self) -> Self:
        self._reader, self.writer = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._reader, False)
        self._kept = b""
        self._open = True
        asyncio.get_running_loop().add_reader(self._reader, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._reader)
        os.close(self._reader)
        os.close(self.writer)

    def _read(self) -> bool:
        """Take what is there, at most a pipe's fill; False when there was nothing."""
        try:
            data = os.read(self._reader, 65536)
        except BlockingIOError:
            return False
        self._kept = (self._kept + data)[:MAX_OUTPUT]
        return bool(data)

    def text(self) -> str:
        """Give what came so far, without anything that looks like a token or a key."""
        while len(self._kept) < MAX_OUTPUT and self._read():
            pass
        return _BASE64.sub("[redacted]", redact(self._kept.decode("utf-8", "replace"))).strip()
