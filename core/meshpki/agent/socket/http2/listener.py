"""Takes connections on a unix socket: so many and no more, and none while this process has no file left for one."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from typing import TYPE_CHECKING, Final

from meshpki.agent.socket.http2.protocol import ClientConnection
from meshpki.runtime.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from meshpki.agent.socket.http2.call import Http2Call
    from meshpki.agent.socket.http2.headers import Request
    from meshpki.agent.socket.http2.limits import Limits

log = logging.getLogger(__name__)

BACKLOG: Final = 512
AT_ONCE: Final = 4
"""Connections taken in one turn of the loop: those that are gone already give their files back in the next ones."""
BUFFER_BYTES: Final = 16 * 1024
"""Of one connection in one turn of the loop, which takes up to 20 ms when they are the smallest of frames."""
PAUSE_SECONDS: Final = 0.1


class Listener:
    """The connections of one socket. `answer` gives each call's status by number, with its words; it never raises."""

    def __init__(
        self,
        answer: Callable[[Http2Call, Request], Coroutine[None, None, tuple[int, str]]],
        limits: Limits,
        connections: int,
    ) -> None:
        self.answer = answer
        self.limits = limits
        self.buffer = memoryview(bytearray(BUFFER_BYTES))
        self._most = connections
        self._connections: set[ClientConnection] = set()
        self._taking: set[asyncio.Task[object]] = set()
        self._socket: socket.socket | None = None
        self._again: asyncio.TimerHandle | None = None
        self._none_left = asyncio.Event()
        self._broken = Repeats(log, "a client's connection is ended")
        self._not_taken = Repeats(log, "no connection can be taken now: this machine is at fault")

    def listen(self, path: Path) -> None:
        """Bind and take connections from now on. Raises OSError."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            self._socket.bind(str(path))
            self._socket.listen(BACKLOG)
        except OSError:
            self._socket.close()
            raise
        self._watch(self._socket)

    async def stop(self, seconds: float) -> None:
        """Take no connection and no call any more; wait so long for those that there are, and close."""
        if self._socket is not None:
            self._unwatch(self._socket)
            self._socket.close()
            self._socket = None
        await asyncio.gather(*self._taking)
        for connection in tuple(self._connections):
            connection.drain()
        if not await self._left(seconds):
            for connection in tuple(self._connections):
                connection.abort()
            await self._left(seconds)

    async def _left(self, seconds: float) -> bool:
        """Wait so long for the last connection to be no more."""
        self._none_left.clear()
        try:
            async with asyncio.timeout(seconds):
                while self._connections:
                    await self._none_left.wait()
        except TimeoutError:
            return False
        return True

    def gone(self, connection: ClientConnection) -> None:
        """A connection is no more."""
        self._connections.discard(connection)
        if not self._connections:
            self._none_left.set()

    def ended(self, why: str) -> None:
        """A client has broken a rule of HTTP/2, or asked too much."""
        self._broken.say(why, {"why": why})

    def _watch(self, listening: socket.socket) -> None:
        self._again = None
        asyncio.get_running_loop().add_reader(listening, self._accept, listening)

    def _unwatch(self, listening: socket.socket) -> None:
        asyncio.get_running_loop().remove_reader(listening)
        if self._again is not None:
            self._again.cancel()

    def _accept(self, listening: socket.socket) -> None:
        for _ in range(AT_ONCE):
            try:
                accepted, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(listening, error)
                return
            if len(self._connections) >= self._most:
                accepted.close()
                continue
            accepted.setblocking(False)
            self._take(accepted)

    def _pause(self, listening: socket.socket, error: OSError) -> None:
        """A socket that nobody may be taken from stays readable: do not look at it for a while."""
        todo = "raise `ulimit -n`" if error.errno == errno.EMFILE else "see what this machine is short of"
        self._not_taken.say(str(error.errno), {"seen": error.strerror, "todo": todo})
        self._unwatch(listening)
        self._again = asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._watch, listening)

    def _take(self, accepted: socket.socket) -> None:
        connection = ClientConnection(self)
        self._connections.add(connection)
        task = asyncio.get_running_loop().create_task(self._connect(connection, accepted))
        self._taking.add(task)
        task.add_done_callback(self._taking.discard)

    async def _connect(self, connection: ClientConnection, accepted: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except OSError:  # it is gone already
            accepted.close()
            connection.connection_lost(None)
