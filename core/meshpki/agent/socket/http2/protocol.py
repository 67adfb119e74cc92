"""The shell of one connection: its bytes, its calls' tasks and its timer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, cast

from h2.errors import ErrorCodes

from meshpki.agent.socket.http2.call import Http2Call
from meshpki.agent.socket.http2.connection import Connection
from meshpki.agent.socket.http2.events import CallBegun, CallDropped, CallMoved, Greeted, Leaving, Over, RoomMade

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from meshpki.agent.socket.http2.events import Event
    from meshpki.agent.socket.http2.headers import Request
    from meshpki.agent.socket.http2.limits import Limits


class Server(Protocol):
    """What all connections of a server share."""

    limits: Limits
    buffer: memoryview
    """Bytes are received into it and taken out of it in one step: one is enough for all."""

    @property
    def answer(self) -> Callable[[Http2Call, Request], Coroutine[None, None, tuple[int, str]]]:
        """Answers a call, and gives its status. Raises nothing but CancelledError."""
        ...

    def ended(self, why: str) -> None:
        """A client has broken a rule of HTTP/2, or asked too much."""
        ...

    def gone(self, connection: ClientConnection) -> None:
        """A connection is no more."""
        ...


class ClientConnection(asyncio.BufferedProtocol):
    """One client."""

    __slots__ = ("_calls", "_draining", "_room", "_server", "_timer", "_transport", "core")

    def __init__(self, server: Server) -> None:
        loop = asyncio.get_running_loop()
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._calls: dict[int, Http2Call] = {}
        self._room: dict[asyncio.Future[None], None] | None = None
        """Who waits to send, in the order in which they came."""
        self._draining = False
        self.core = Connection(server.limits, loop.time())
        self._timer: asyncio.TimerHandle | None = loop.call_later(server.limits.greeting, self._close)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Say our settings."""
        self._transport = cast("asyncio.Transport", transport)
        self.flush()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - it is the same for all
        """Lend the buffer that all share."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what is in it."""
        for event in self.core.receive(self._server.buffer[:nbytes], asyncio.get_running_loop().time()):
            self._take(event)
        self.flush()
        if self.core.over or (self._draining and not self._calls):
            self._hang_up()

    def eof_received(self) -> None:
        """Who says nothing any more is no client of gRPC's: it is not waited for longer than any other."""
        self._hang_up()

    def pause_writing(self) -> None:
        """Who does not read is not read: else its pings and calls would fill our buffer."""
        assert self._transport is not None
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Go on with it."""
        assert self._transport is not None
        self._transport.resume_reading()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever it was, it is over
        """End every call."""
        self._stop_timer()
        self.core.forget()
        for call in tuple(self._calls.values()):
            call.cancel()
        self._make_room()
        self._transport = None
        self._server.gone(self)

    def flush(self) -> None:
        """Hand over what is to be sent."""
        if self._transport is not None and (data := self.core.to_send()):
            self._transport.write(data)

    async def unblocked(self) -> None:
        """Wait until the client reads what it was sent."""
        while self._transport is not None and not self._transport.is_reading():
            await self.room()

    async def room(self) -> None:
        """Wait until somebody may try to send again."""
        waiting = asyncio.get_running_loop().create_future()
        room = self._room = self._room or {}
        room[waiting] = None
        try:
            await waiting
        finally:
            room.pop(waiting, None)

    def drain(self) -> None:
        """Take no new call, and close after the last one."""
        self._draining = True
        self.core.drain()
        self.flush()
        if not self._calls:
            self._hang_up()

    def abort(self) -> None:
        """End it now."""
        if self._transport is not None:
            self._transport.abort()

    def _take(self, event: Event) -> None:
        match event:
            case CallBegun(stream, request):
                self._begin(stream, request)
            case CallMoved(stream) if stream in self._calls:
                self._calls[stream].moved()
            case CallDropped(stream) if stream in self._calls:
                self._calls[stream].cancel()
            case RoomMade():
                self._make_room()
            case Greeted() if not self._calls:
                self._wait_for_calls()
            case Leaving():
                self._draining = True
            case Over(why):
                if why:
                    self._server.ended(why)
                for call in self._calls.values():
                    call.cancel()

    def _begin(self, stream: int, request: Request) -> None:
        self._stop_timer()
        call = self._calls[stream] = Http2Call(self, stream)
        loop = asyncio.get_running_loop()
        if request.timeout is not None:
            call.deadline = loop.call_later(request.timeout, call.expire)
        call.begin(loop.create_task(self._server.answer(call, request)))

    def finished(self, call: Http2Call, status: int, words: str) -> None:
        """A call's task is done."""
        del self._calls[call.stream]
        if self._transport is None:
            return
        self.core.finish(call.stream, status, words)
        self.flush()
        if self._draining and not self._calls:
            self._hang_up()
        elif not self._calls:
            self._wait_for_calls()

    def _wait_for_calls(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(self._server.limits.idle, self._close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _make_room(self) -> None:
        waiting, self._room = self._room or (), None
        for one in waiting:
            if not one.done():
                one.set_result(None)

    def _close(self) -> None:
        self.core.end(ErrorCodes.NO_ERROR)
        self.flush()
        self._hang_up()

    def _hang_up(self) -> None:
        """Close once all is sent; who does not read it is not waited for."""
        if self._transport is not None and not self._transport.is_closing():
            self._stop_timer()
            self._timer = asyncio.get_running_loop().call_later(self._server.limits.greeting, self.abort)
            self._transport.close()
