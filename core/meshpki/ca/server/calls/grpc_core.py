"""gRPC's core as grpcio has it inside: calls, requests and ends come out of one queue, as they happen.

grpcio's own server hands every call from thread to thread, which takes more than its certificate does (ADR 0023). What
that server is made of is used here without it: `grpc._cython.cygrpc`, which grpcio promises to nobody. So this module
is the only one that knows it, and uses no more of it than that server does (grpcio's `grpc/_server.py`).
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from grpc._cython import cygrpc  # type: ignore[attr-defined]  # of grpcio's inside there are no types

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import grpc

Event: TypeAlias = Any  # Any: cygrpc has no types; what can be asked of an event are the functions below
Tag: TypeAlias = "Callable[[Event], object]"
"""Whom the queue's thread calls with what became of an operation."""
Option: TypeAlias = tuple[str, int]
Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"
_PLAIN: Final = 0
"""Flags of an operation."""
_OK: Final = 0
_LONG_OVER: Final = 0.0
"""A time in 1970."""
_NOTHING_MORE: Final = cygrpc.CompletionType.queue_timeout


class CompletionQueue:
    """What happens to all calls of all servers that were made for it. `next` is for one thread."""

    __slots__ = ("core",)

    def __init__(self) -> None:
        self.core = cygrpc.CompletionQueue()

    def next(self, seconds: float | None) -> Event | None:
        """Wait so long at most (0: not at all, None: without end) for what happens next."""
        event = self.core.poll(_deadline(seconds))
        return None if event.completion_type is _NOTHING_MORE else event


class CoreServer:
    """One server: its ports, and whatever is called on them. Safe for threads."""

    __slots__ = ("_lock", "_queue", "_server", "_started", "_stopping")

    def __init__(self, queue: CompletionQueue, options: Sequence[Option]) -> None:
        # What ends a server may be told of before the call that ends it has come back in its own thread: without the
        # lock the one would free what the other still uses.
        self._lock = threading.Lock()
        self._started = False
        self._stopping = False
        self._queue = queue.core
        self._server = cygrpc.Server(tuple(options), False)  # False: without xDS
        self._server.register_completion_queue(self._queue)

    def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        """Bind, and return the port; 0 when that cannot be. None: without TLS."""
        if credentials is None:
            return int(self._server.add_http2_port(address.encode()))
        inside: Any = credentials  # Any: what grpcio's public class carries around
        return int(self._server.add_http2_port(address.encode(), inside._credentials))

    def start(self) -> None:
        """Take calls; each has to be asked for by `accept`."""
        with self._lock:
            self._started = True
            self._server.start()

    def accept(self, tag: Tag) -> None:
        """Have the next call told to `tag`, if there is to be one: see `call_of`."""
        with self._lock:
            if not self._stopping:
                self._server.request_call(self._queue, self._queue, tag)

    def shut_down(self, tag: Tag) -> None:
        """Take no new calls; `tag` hears of it when those under way have ended. Whether it was started or not."""
        with self._lock:
            self._stopping = True
            if not self._started:  # gRPC's core lets go of no port before: it would end the process
                self._started = True
                self._server.start()
            self._server.shutdown(self._queue, tag)

    def cancel_all_calls(self) -> None:
        """End those under way."""
        with self._lock:
            self._server.cancel_all_calls()

    def destroy(self) -> None:
        """Let go of everything; after `shut_down` has told so, or if there is no port."""
        with self._lock:
            self._server.destroy()


class CoreCall:
    """One call. Safe for threads; no operation twice at the same time."""

    __slots__ = ("_call",)

    def __init__(self, event: Event) -> None:
        """`event`: see `CoreServer.accept`."""
        self._call = event.call

    def peer(self) -> str:
        """Where it comes from, as gRPC writes it: `ipv4:192.0.2.1:4711`."""
        peer: str | bytes = self._call.peer()
        return peer.decode() if isinstance(peer, bytes) else peer

    def certificate(self) -> bytes:
        """The client's certificate in PEM; nothing where none was shown."""
        return b"".join(cygrpc.auth_context(self._call).get(b"x509_pem_cert", ()))

    def receive(self, tag: Tag) -> None:
        """Have a message told to `tag`: see `message_of`."""
        self._begin(tag, cygrpc.ReceiveMessageOperation(_PLAIN))

    def answer(self, message: bytes, tag: Tag) -> None:
        """Send it, and end the call with OK; `tag` hears how that went: see `was_cancelled`."""
        self._begin(
            tag,
            cygrpc.ReceiveCloseOnServerOperation(_PLAIN),
            cygrpc.SendInitialMetadataOperation((), _PLAIN),
            cygrpc.SendMessageOperation(message, _PLAIN),
            cygrpc.SendStatusFromServerOperation((), _OK, b"", _PLAIN),
        )

    def end(self, status: grpc.StatusCode, text: str, tag: Tag) -> None:
        """End the call with a status; `tag` hears how that went: see `was_cancelled`."""
        self._begin(
            tag,
            cygrpc.ReceiveCloseOnServerOperation(_PLAIN),
            cygrpc.SendInitialMetadataOperation((), _PLAIN),
            cygrpc.SendStatusFromServerOperation((), status.value[0], _encoded(text), _PLAIN),
        )

    def cancel(self, status: grpc.StatusCode, text: str) -> None:
        """End the call whatever is under way, which fails then."""
        self._call.cancel(status.value[0], _encoded(text))

    def _begin(self, tag: Tag, *operations: object) -> None:
        """Raises RuntimeError for what gRPC does not take: nobody would ever hear of it."""
        error = self._call.start_server_batch(operations, tag)
        if error:
            raise RuntimeError(f"gRPC takes no such operations now: error {error}")


class CoreStream(CoreCall):
    """A call that is answered again and again. `close` comes first, and `end` is not for it."""

    __slots__ = ("_opened",)

    def __init__(self, call: CoreCall) -> None:
        self._call = call._call
        self._opened = False

    def closes(self, tag: Tag) -> None:
        """Have `tag` hear when the call is over, whoever ended it."""
        self._begin(tag, cygrpc.ReceiveCloseOnServerOperation(_PLAIN))

    def send(self, message: bytes, tag: Tag) -> None:
        """Send one more message; `tag` hears when it has left."""
        self._begin(tag, *self._opening(), cygrpc.SendMessageOperation(message, _PLAIN))

    def finish(self, status: grpc.StatusCode, text: str, tag: Tag) -> None:
        """End the call with a status."""
        last = cygrpc.SendStatusFromServerOperation((), status.value[0], _encoded(text), _PLAIN)
        self._begin(tag, *self._opening(), last)

    def _opening(self) -> tuple[object, ...]:
        if self._opened:
            return ()
        self._opened = True
        return (cygrpc.SendInitialMetadataOperation((), _PLAIN),)


def _deadline(seconds: float | None) -> float | None:
    """In epoch seconds. One that is just over would be slept for: gRPC rounds it up to its next millisecond."""
    if seconds is None:
        return None
    return time.time() + seconds if seconds > 0 else _LONG_OVER


def _encoded(text: str) -> bytes:
    """Whatever was said: JSON knows halves of letters that UTF-8 does not (RFC 8259, section 8.2)."""
    return text.encode(errors="backslashreplace")


def call_of(event: Event) -> tuple[str, Metadata] | None:
    """The path and the metadata of a call that was accepted; None where there will be no more of them."""
    if event.call is None or not event.success:
        return None
    return event.call_details.method.decode(errors="replace"), event.invocation_metadata


def message_of(event: Event) -> bytes | None:
    """What was received; None where nothing will come."""
    message: bytes | None = event.batch_operations[0].message()
    return message


def was_cancelled(event: Event) -> bool:
    """Whether the client was gone when the call ended."""
    return bool(event.batch_operations[0].cancelled())
