"""gRPC on one HTTP/2 connection: bytes and a time come in, events and bytes go out. No socket and no clock.

What a client sends is kept as long as nobody reads it, and acknowledged as it is read: so a stream holds one window of
it, and a connection `Limits.unread`. A stream that is over is forgotten at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from h2 import events as h2_events
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from hyperframe.frame import GoAwayFrame

from meshpki.agent.socket.http2.events import CallBegun, CallDropped, CallMoved, Greeted, Leaving, Over, RoomMade
from meshpki.agent.socket.http2.headers import (
    OPENING,
    BadHeadersError,
    MalformedError,
    NotGrpcError,
    http_only,
    read_request,
    trailers,
)
from meshpki.agent.socket.http2.meter import Budget, Meter, TooMuchError
from meshpki.agent.socket.http2.slim import SlimConnection
from meshpki.agent.socket.http2.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from hpack import HeaderTuple

    from meshpki.agent.socket.http2.events import Event
    from meshpki.agent.socket.http2.limits import Limits

INVALID_ARGUMENT: Final = 3
RESOURCE_EXHAUSTED: Final = 8
EARNED: Final = 8
"""A message or a status allows so many pings and window updates more: clients send some for each."""
EARNED_EACH: Final = 512
"""So many bytes of it allow one more. Who opens a window by less each time has us work for each byte."""

_NAMES: Final = {int(code): code.name for code in ErrorCodes}


class Connection:
    """The server's side of one connection."""

    __slots__ = ("_budget", "_draining", "_greeted", "_h2", "_limits", "_meter", "_out", "_streams", "over")

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._h2 = SlimConnection(limits)
        self._meter = Meter(limits)
        self._budget = Budget(limits, now)
        self._streams: dict[int, Stream] = {}
        self._greeted = False
        self._draining = False
        self._out = b""
        self.over = False
        """Nothing is received or sent any more, but for what `to_send` gives still."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(limits.unread - self._h2.inbound_flow_control_window)

    def receive(self, data: memoryview, now: float) -> list[Event]:
        """Take bytes of the client. After an `Over` there are to be no others."""
        if self.over:
            return []
        try:
            if spent := self._meter.look(data):
                self._budget.spend(spent, now)
            found = self._h2.receive_data(data)
            if wasted := self._h2.wasted():
                self._budget.spend(wasted, now)
            return self._translated(found, now)
        except TooMuchError as error:
            return self.end(error.code, str(error))
        except H2Error as error:  # its words may quote a header
            return self._ended(
                f"{_NAMES.get(getattr(error, 'error_code', 1), 'PROTOCOL_ERROR')} {type(error).__name__}"
            )

    def to_send(self) -> bytes:
        """Give what is to be sent, once."""
        out, self._out = self._out, b""
        return out if self.over else out + self._h2.data_to_send()

    def read(self, stream: int) -> bytes | None:
        """Take a call's next message; None: wait for CallMoved, or there is to be no other, see `is_ended`.

        Raises MessageRefusedError.
        """
        one = self._streams.get(stream)
        if one is None:
            return None
        message = one.take(self._limits.message)
        self._acknowledge(stream, one.due())
        if message is not None:
            self._budget.earn(EARNED)
        return message

    def awaited(self, stream: int) -> int:
        """Give the length of the message that a call waits for; -1 while that is not known."""
        one = self._streams.get(stream)
        return -1 if one is None else one.awaited()

    def skip(self, stream: int) -> bool:
        """Pass over a call's next message, holding none of it; True when no more of it is to come."""
        one = self._streams.get(stream)
        if one is None:
            return True
        done = one.skip()
        self._acknowledge(stream, one.due())
        return done

    def is_ended(self, stream: int) -> bool:
        """Whether the client has said its last message, read or not."""
        one = self._streams.get(stream)
        return one is None or one.ended

    def send(self, stream: int, data: memoryview) -> int:
        """Send as much of these bytes as the client takes now, and say how much that was."""
        one = self._streams.get(stream)
        if one is None:
            return len(data)
        if not one.answered:
            one.answered = True
            self._h2.send_headers(stream, OPENING)
        sent = 0
        while sent < len(data) and (room := self._room(stream)) > 0:
            piece = data[sent : sent + room]
            self._h2.send_data(stream, piece.tobytes())
            sent += len(piece)
        self._budget.earn(sent // EARNED_EACH + (EARNED if sent == len(data) else 0))
        return sent

    def finish(self, stream: int, status: int, words: str = "") -> None:
        """End a call with a gRPC status, by its number. Nothing happens when the client has dropped it."""
        if (one := self._streams.get(stream)) is not None:
            self._budget.earn(EARNED)
            self._close(stream, trailers(status, words) if one.answered else (*OPENING, *trailers(status, words)))

    def end(self, code: ErrorCodes, why: str = "") -> list[Event]:
        """Say that the connection ends, and why."""
        if not self.over:
            self._h2.close_connection(code, additional_data=why.encode() or None)
        return self._ended(f"{code.name} {why}" if why else "")

    def drain(self) -> None:
        """Say that no new call is taken, while those that there are go on. (By h2 itself they could not.)"""
        self._draining = True
        if not self.over:
            frame = GoAwayFrame(0, last_stream_id=self._h2.highest_inbound_stream_id, error_code=ErrorCodes.NO_ERROR)
            self._out = self._h2.data_to_send() + frame.serialize()

    def forget(self) -> None:
        """The client is gone: hold nothing of it."""
        self.over = True
        self._streams.clear()
        self._h2.forget()

    def _room(self, stream: int) -> int:
        return min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, 64 * 1024)

    def _acknowledge(self, stream: int, length: int) -> None:
        if length:
            self._h2.acknowledge_received_data(length, stream)

    def _close(self, stream: int, headers: Sequence[HeaderTuple]) -> None:
        one = self._streams.pop(stream)
        self._acknowledge(stream, one.rest())
        self._h2.send_headers(stream, headers, end_stream=True)
        if not self._h2.streams[stream].closed:  # RFC 9113, section 8.1: the rest of the request is not needed
            self._h2.reset_stream(stream, ErrorCodes.NO_ERROR)
        self._h2.drop(stream)

    def _refuse(self, stream: int, code: ErrorCodes, now: float) -> None:
        """End a call that is none, without an answer."""
        self._budget.spend(1, now)
        self._h2.reset_stream(stream, code)
        self._h2.drop(stream)

    def _ended(self, why: str) -> list[Event]:
        if self.over:
            return []
        self._out = self._h2.data_to_send()
        self.over = True
        self._streams.clear()
        return [Over(why)]

    def _translated(self, found: Sequence[h2_events.Event], now: float) -> list[Event]:
        """h2 has taken all of it before we see the first: of a call that was reset in the end nothing else counts."""
        if any(isinstance(one, h2_events.ConnectionTerminated) and one.error_code for one in found):
            return self._ended("")
        dropped = {one.stream_id for one in found if isinstance(one, h2_events.StreamReset)}
        told: list[Event] = []
        for one in found:
            translate = _TRANSLATED.get(type(one))
            if translate is not None and (type(one) in _STILL or getattr(one, "stream_id", 0) not in dropped):
                told.extend(translate(self, one, now))
        return told

    def _request(self, event: h2_events.RequestReceived, now: float) -> Iterator[Event]:
        stream = event.stream_id
        if self._draining or len(self._streams) >= self._limits.streams:
            self._refuse(stream, ErrorCodes.REFUSED_STREAM, now)
            return
        self._streams[stream] = Stream()
        try:
            request = read_request(event.headers, self._limits.headers)
        except MalformedError:
            del self._streams[stream]
            self._refuse(stream, ErrorCodes.PROTOCOL_ERROR, now)
        except NotGrpcError as error:
            self._close(stream, http_only(error.status))
        except BadHeadersError as error:
            self.finish(stream, RESOURCE_EXHAUSTED if error.too_large else INVALID_ARGUMENT, error.words)
        else:
            self._streams[stream].encoding = request.encoding
            yield CallBegun(stream, request)

    def _data(self, event: h2_events.DataReceived, _: float) -> Iterator[Event]:
        one = self._streams.get(event.stream_id)
        if one is None:  # it is over for us, and was on its way
            self._acknowledge(event.stream_id, event.flow_controlled_length)
            return
        one.add(event.data, event.flow_controlled_length)
        yield CallMoved(event.stream_id)

    def _end_of_requests(self, event: h2_events.StreamEnded, _: float) -> Iterator[Event]:
        if (one := self._streams.get(event.stream_id)) is not None:
            one.ended = True
            yield CallMoved(event.stream_id)

    def _reset(self, event: h2_events.StreamReset, now: float) -> Iterator[Event]:
        one = self._streams.pop(event.stream_id, None)
        if one is not None:
            self._acknowledge(event.stream_id, one.rest())
        self._h2.drop(event.stream_id)
        if one is None or not one.answered:
            self._budget.spend(1, now)
        yield CallDropped(event.stream_id)

    def _settings(self, _: h2_events.RemoteSettingsChanged, __: float) -> Iterator[Event]:
        if not self._greeted:
            self._greeted = True
            yield Greeted()
        yield RoomMade()

    def _goodbye(self, _: h2_events.ConnectionTerminated, __: float) -> Iterator[Event]:
        yield Leaving()

    def _window(self, _: h2_events.WindowUpdated, __: float) -> Iterator[Event]:
        yield RoomMade()


_TRANSLATED: Final[dict[type[h2_events.Event], Callable[..., Iterator[Event]]]] = {
    h2_events.RequestReceived: Connection._request,
    h2_events.DataReceived: Connection._data,
    h2_events.StreamEnded: Connection._end_of_requests,
    h2_events.StreamReset: Connection._reset,
    h2_events.RemoteSettingsChanged: Connection._settings,
    h2_events.WindowUpdated: Connection._window,
    h2_events.ConnectionTerminated: Connection._goodbye,
}
_STILL: Final = {h2_events.DataReceived, h2_events.StreamReset}
"""Of a call that was reset: its bytes are to be acknowledged."""
