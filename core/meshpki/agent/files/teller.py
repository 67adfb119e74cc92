"""Tells of changed files: one notice at a time, again when it fails, and once for changes that come while it runs."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from meshpki.agent.files import command as file_command
from meshpki.agent.files import signal as file_signal
from meshpki.agent.files.notice import CommandNotice, SignalNotice
from meshpki.errors import MachineError
from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0
ATTEMPTS: Final = 3
"""How often one change is told when telling fails: a program that is just starting may not be ready to listen."""


class Teller:
    """Owns the notice: nobody else runs the command or sends the signal."""

    def __init__(
        self, notice: CommandNotice | SignalNotice, directory: Path, *, retry_seconds: float = RETRY_SECONDS
    ) -> None:
        self._notice = notice
        self._directory = directory
        self._retry_seconds = retry_seconds
        self._left = 0
        self._woken = Signal()
        self.failures = 0
        """Attempts that failed."""

    def tell(self) -> None:
        """Ask for a notice; one that is running is followed by another."""
        self._left = ATTEMPTS
        self._woken.wake()

    async def run(self) -> None:
        """Go on until cancelled; a command that runs then is killed."""
        while True:
            woken = self._woken.next()
            if self._left:
                await self._attempt()
            await asyncio.wait([woken], timeout=self._retry_seconds if self._left else None)

    async def _attempt(self) -> None:
        left, self._left = self._left, 0
        try:
            await self._notify()
        except Exception as error:  # noqa: BLE001 - one notice may fail; that there are notices must not end
            self.failures += 1
            self._left = max(self._left, left - 1)
            log.warning("nobody could be told of the new files", extra={**_words(error), "attempts_left": self._left})

    async def _notify(self) -> None:
        match self._notice:
            case CommandNotice() as command:
                await file_command.run(command, self._directory)
            case SignalNotice() as wanted:
                sent = await asyncio.to_thread(file_signal.send, wanted)
                log.info(
                    "the program is signalled after a change" if sent else "there is no program to signal",
                    extra={"signal": wanted.number.name, "pid_file": str(wanted.pid_file)},
                )


def _words(error: Exception) -> Mapping[str, object]:
    """Of an error that we did not foresee only the kind: its text might hold anything."""
    if isinstance(error, MachineError):
        return {"seen": error.seen, "wanted": error.wanted, "todo": error.todo}
    return {"seen": f"a fault of the agent: {type(error).__name__}", "wanted": "", "todo": "report it"}
