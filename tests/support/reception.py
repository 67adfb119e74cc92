"""A reception that serves the methods of a test on a port of this machine, without TLS, and a client for it."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import grpc

from meshpki.ca.server.calls.lanes import aside_lane, lane
from meshpki.ca.server.calls.listener import Door
from meshpki.ca.server.calls.method_table import MethodTable
from meshpki.ca.server.calls.reception import Reception
from meshpki.ca.server.calls.sent_away import SentAway

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.ca.server.calls.lanes import Lane
    from meshpki.ca.server.calls.methods import AnyMethod


class Pending(Protocol):
    """A call that was begun: grpc's stubs have one of these halves in each of two types."""

    def result(self, timeout: float) -> bytes: ...
    def code(self) -> grpc.StatusCode: ...


@dataclass
class Served:
    """What is served, and a channel to it."""

    reception: Reception
    table: MethodTable
    lane: Lane
    """Of its methods that are not served aside."""
    sent_away: SentAway
    address: str
    channel: grpc.Channel

    def call(self, path: str, request: bytes = b"", *, timeout: float = 30) -> bytes:
        """One request, one answer. Raises grpc.RpcError."""
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        return method(request, timeout=timeout)

    def begin(self, path: str, request: bytes = b"", *, timeout: float = 30) -> Pending:
        """The same, without waiting for it."""
        method: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(path)
        pending: Any = method.future(request, timeout=timeout)  # Any: see Pending
        begun: Pending = pending
        return begun


@contextlib.contextmanager
def serving(*methods: AnyMethod, places: int = 64) -> Iterator[Served]:
    """Serve from entry to exit; whoever stopped it before need not care."""
    sent_away = SentAway()
    reception = Reception(sent_away)
    own = lane(places, sent_away.count, lambda caller: None)
    table = MethodTable(methods, own, aside_lane(sent_away.count))
    address = reception.listen(Door("127.0.0.1:0", "listen", None, 1000), table)
    reception.start()
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(address, options=options) as channel:
        try:
            yield Served(reception, table, own, sent_away, address, channel)
        finally:
            reception.stop()
