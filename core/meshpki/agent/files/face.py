"""The files as a face: each new snapshot is written, and whoever wants to know is told."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Final

from meshpki.agent.files.standing import FilesStanding
from meshpki.errors import MachineError
from meshpki.runtime.wakeup import Signal

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.agent.files.set import FileSet
    from meshpki.agent.files.teller import Teller
    from meshpki.agent.rotation.feed import Feed
    from meshpki.agent.rotation.snapshot import Snapshot

log = logging.getLogger(__name__)

RETRY_SECONDS: Final = 5.0


class FilesFace:
    """Follows a feed. Trouble here stays here: it is said once, tried again, and the socket serves meanwhile.

    The first set of each life of the agent is told too: the life before may have ended between a change and its
    notice.
    """

    def __init__(
        self,
        files: FileSet,
        feed: Feed,
        teller: Teller | None = None,
        *,
        retry_seconds: float = RETRY_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` gives epoch seconds."""
        self._files = files
        self._feed = feed
        self._teller = teller
        self._retry_seconds = retry_seconds
        self._clock = clock
        self._tried: Snapshot | None = None
        self._written: Snapshot | None = None
        self._stepped = Signal()
        self._tasks: list[asyncio.Task[None]] = []
        self._ends: int | None = None
        self._said_over = False
        self._failures = 0
        self.trouble = ""
        """Why the files are not what the feed has; empty when they are."""

    @property
    def standing(self) -> FilesStanding:
        """How the files stand."""
        untold = self._teller.failures if self._teller is not None else 0
        return FilesStanding(self._ends, self.trouble, self._failures, untold)

    def prepare(self) -> None:
        """Make the directory now, or say why not. Raises MachineError."""
        self._files.prepare()

    def start(self) -> None:
        """Begin to follow."""
        self._tasks = [asyncio.create_task(self._follow())]
        if self._teller is not None:
            self._tasks.append(asyncio.create_task(self._teller.run()))
        for task in self._tasks:
            task.add_done_callback(_log_fault)

    async def stop(self) -> None:
        """Follow no more; a command that runs is killed. The files stay."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def tried(self, snapshot: Snapshot) -> None:
        """Wait until that snapshot was written, could not be, or is no longer the feed's."""
        while self._tried is not snapshot and self._feed.current is snapshot and not self._tasks[0].done():
            await asyncio.wait([self._stepped.next(), self._tasks[0]], return_when=asyncio.FIRST_COMPLETED)

    async def _follow(self) -> None:
        while not self._feed.closed:
            changed, snapshot = self._feed.changes(), self._feed.current
            if snapshot is not None and snapshot is not self._written:
                await self._write(snapshot)
                self._stepped.wake()
            await asyncio.wait([changed], timeout=self._retry_seconds if self.trouble else None)

    async def _write(self, snapshot: Snapshot) -> None:
        try:
            await asyncio.to_thread(self._files.write, snapshot)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is tried again: nobody else writes the files
            await self._failed(error, snapshot)
        else:
            if self.trouble:
                log.info("the files are written again")
            self._written, self._ends = snapshot, snapshot.not_after
            self.trouble, self._said_over = "", False
            if self._teller is not None:
                self._teller.tell()
        self._tried = snapshot

    async def _failed(self, error: Exception, snapshot: Snapshot) -> None:
        self._failures += 1
        if self._written is None:
            self._ends = await asyncio.to_thread(self._files.ends, snapshot.spiffe_id)
        if not isinstance(error, MachineError):  # its text might hold anything
            error = MachineError(f"a fault of the agent: {type(error).__name__}", todo="report it")
        extra = {"seen": error.seen, "wanted": error.wanted, "todo": error.todo}
        level = logging.DEBUG if error.seen == self.trouble else logging.WARNING
        log.log(level, "the files could not be written", extra=extra)
        self.trouble = error.seen
        if self._ends is not None and self._clock() >= self._ends and not self._said_over:
            self._said_over = True
            log.error("the certificate in the files has expired, and no newer one can be written", extra=extra)


def _log_fault(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("a fault of the agent ended the files", exc_info=task.exception())
