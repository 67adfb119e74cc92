"""One call from the side of who answers it: messages in and out, and a task that lasts as long as it does."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from meshpki.agent.socket.http2.limits import STREAM_WINDOW
from meshpki.agent.socket.http2.messages import framed

if TYPE_CHECKING:
    from meshpki.agent.socket.http2.allowance import Allowance
    from meshpki.agent.socket.http2.protocol import ClientConnection

log = logging.getLogger(__name__)

CANCELLED: Final = 1
DEADLINE_EXCEEDED: Final = 4
INTERNAL: Final = 13


class Http2Call:
    """Reads and writes one stream. One reader and one writer at a time."""

    __slots__ = ("_connection", "_expired", "_moved", "_task", "allowance", "deadline", "stream")

    def __init__(self, connection: ClientConnection, stream: int) -> None:
        self._connection = connection
        self._moved: asyncio.Future[None] | None = None
        self.stream = stream
        self.allowance: Allowance | None = None
        """Its client's, once somebody knows who that is; before, nothing is read."""
        self._task: asyncio.Task[tuple[int, str]] | None = None
        self.deadline: asyncio.TimerHandle | None = None
        self._expired = False

    async def read(self) -> bytes | None:
        """Wait for the next message; None when there is to be no other. Raises MessageRefusedError."""
        core, held = self._connection.core, 0
        try:
            while (message := core.read(self.stream)) is None and not core.is_ended(self.stream):
                if self.allowance is not None and not held and (size := core.awaited(self.stream)) > STREAM_WINDOW:
                    self.allowance.take(size)
                    held = size
                await self._next_bytes()
        finally:
            if self.allowance is not None:
                self.allowance.give(held)
        self._connection.flush()
        return message

    async def hear_out(self, seconds: float) -> None:
        """Wait for the message that is on its way, and look at none of it.

        Who is still sending when its call ends may take that for a failure of its own: grpc.aio says INTERNAL to one of
        ten such calls, whatever the status was.
        """
        try:
            async with asyncio.timeout(seconds):
                while not self._connection.core.skip(self.stream):
                    await self._next_bytes()
        except TimeoutError:
            pass

    async def write(self, message: bytes) -> None:
        """Send a message; returns when all of it is on its way."""
        rest = memoryview(framed(message))
        while rest:
            await self._connection.unblocked()
            rest = rest[self._connection.core.send(self.stream, rest) :]
            self._connection.flush()
            if rest:
                await self._connection.room()

    async def _next_bytes(self) -> None:
        self._connection.flush()
        self._moved = asyncio.get_running_loop().create_future()
        try:
            await self._moved
        finally:
            self._moved = None

    def moved(self) -> None:
        """Look again whether there is a message."""
        if self._moved is not None and not self._moved.done():
            self._moved.set_result(None)

    def begin(self, task: asyncio.Task[tuple[int, str]]) -> None:
        """Be answered by this task. It may be cancelled before its first step: so a callback ends the call."""
        self._task = task
        task.add_done_callback(self._done)

    def expire(self) -> None:
        """The client waits no longer."""
        self._expired = True
        self.cancel()

    def cancel(self) -> None:
        """End the call's task."""
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[tuple[int, str]]) -> None:
        self._task = None
        if self.deadline is not None:
            self.deadline.cancel()
        if task.cancelled():
            status, words = (DEADLINE_EXCEEDED, "") if self._expired else (CANCELLED, "")
        elif (fault := task.exception()) is not None:  # it was to raise none; its client waits all the same
            log.error("a fault of the agent ended a call", exc_info=fault)
            status, words = INTERNAL, "a fault of the agent: see its log"
        else:
            status, words = task.result()
        self._connection.finished(self, status, words)
