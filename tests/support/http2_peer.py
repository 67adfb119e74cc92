"""A client of h2's own and our side of its connection, with nothing between them but bytes."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection

from meshpki.agent.socket.http2.connection import Connection
from meshpki.agent.socket.http2.events import CallBegun
from meshpki.agent.socket.http2.limits import Limits
from support.http2 import END_HEADERS, HEADERS, frame, headers_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from meshpki.agent.socket.http2.events import Event

CALL = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/a.B/C"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)

LIMITS = Limits(message=200_000, headers=4096, block=16_384, streams=20, burst=10, each_second=1.0)


def literal_call(stream: int) -> bytes:
    """The headers of a call, by no table."""
    return frame(HEADERS, END_HEADERS, headers_of("/a.B/C"), stream)


class Peer:
    """What the client says is `said` and heard by us in `pump`; what it heard stands in its attributes."""

    def __init__(self, limits: Limits) -> None:
        self.ours = Connection(limits, 0.0)
        self.client = H2Connection(
            H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        )
        self.client.initiate_connection()
        self.now = 0.0
        self.answers: defaultdict[int, dict[str, str]] = defaultdict(dict)
        self.data: defaultdict[int, bytes] = defaultdict(bytes)
        self.ended: set[int] = set()
        self.reset: dict[int, int] = {}
        self.goaway: tuple[int, bytes] | None = None
        self.acknowledges = True
        self.pump()

    def call(self, *more: tuple[str, str], headers: Iterable[tuple[str, str]] = CALL, ends: bool = False) -> int:
        """Begin a call; its bytes go with the next `pump`."""
        stream = self.client.get_next_available_stream_id()
        self.client.send_headers(stream, [*headers, *more], end_stream=ends)
        return stream

    def begun(self, *more: tuple[str, str]) -> int:
        """Begin a call that we have heard of."""
        stream = self.call(*more)
        assert [one.stream for one in self.pump() if isinstance(one, CallBegun)] == [stream]
        return stream

    def pump(self) -> list[Event]:
        """Carry bytes both ways until nobody has any; give our events."""
        found: list[Event] = []
        while True:
            there = self.client.data_to_send()
            found += self.hear(there) if there else []
            back = self.ours.to_send()
            if not there and not back:
                return found
            for event in self.client.receive_data(back):
                self._heard(event)

    def hear(self, data: bytes) -> list[Event]:
        """Give us bytes, whoever made them."""
        return self.ours.receive(memoryview(data), self.now)

    def _heard(self, event: events.Event) -> None:
        match event:
            case events.ResponseReceived() | events.TrailersReceived():
                self.answers[event.stream_id].update(dict(event.headers))  # type: ignore[arg-type]  # decoded by h2
            case events.DataReceived():
                self.data[event.stream_id] += event.data
                if self.acknowledges:
                    self.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case events.StreamEnded():
                self.ended.add(event.stream_id)
            case events.StreamReset():
                self.reset[event.stream_id] = int(event.error_code or 0)
            case events.ConnectionTerminated():
                self.goaway = int(event.error_code or 0), event.additional_data or b""
