"""Between grpcio and the method table: a place and a name for every call, and refusals as status codes."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import grpc

from meshpki.ca.config import Limits
from meshpki.ca.server.call_pool import AtOnce
from meshpki.ca.server.endings import ending
from meshpki.ca.server.lanes import issuing_lane
from meshpki.ca.server.methods import Call, CallRefusedError, Method, StreamMethod
from meshpki.ca.server.sent_away import SentAway
from meshpki.ca.server.waiting_room import Request

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from meshpki.ca.server.call_pool import AsidePool, CallPool
    from meshpki.ca.server.lanes import AnyLane, Lane
    from meshpki.ca.server.waiting_room import WaitingRoom

AnyMethod: TypeAlias = Method[Any] | StreamMethod[Any]  # Any: each method's grant was typed where it was made
Handler: TypeAlias = "grpc.RpcMethodHandler[bytes, bytes]"
SERVER_BUSY: Final = "server_busy"


class MethodTable(grpc.GenericRpcHandler):
    """Serves the methods of a table; for every other path grpcio answers UNIMPLEMENTED."""

    def __init__(
        self,
        methods: Iterable[AnyMethod],
        lane: Lane[CallPool] | None = None,
        aside: Lane[AsidePool] | None = None,
        *,
        sent_away: SentAway | None = None,
        with_certificate: bool = False,
    ) -> None:
        """`aside` is the lane of methods that are served aside; without it they share `lane`. `sent_away` hears of
        calls for which there is no place. `with_certificate`: for a listener that demands client certificates; rules
        see them then.
        """
        self._with_certificate = with_certificate
        self._prefix = os.urandom(4).hex()
        self._numbers = itertools.count(1)
        self._sent_away = sent_away or SentAway()
        self._at_once = AtOnce()
        self.lane = lane or issuing_lane(Limits(), self._sent_away)
        self.methods = {method.path: method for method in methods}
        self._handlers = {path: self._handlers_of(method, aside) for path, method in self.methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Handler | None:
        """Find the method, or who says that there is no place for its call; None for a path that is not in the table.

        grpcio asks in one thread, and hands the call over before it asks for the next.
        """
        found = self._handlers.get(handler_call_details.method)
        if found is None:
            return None
        pool, handler, busy = found
        return busy if pool.full() else handler

    def _handlers_of(
        self, method: AnyMethod, aside: Lane[AsidePool] | None
    ) -> tuple[CallPool | AsidePool, Handler, Handler]:
        lane: AnyLane = aside if method.aside and aside is not None else self.lane
        return lane.pool, self._adapt(method, lane), self._busy(method, lane)

    def _adapt(self, method: AnyMethod, lane: AnyLane) -> Handler:
        # A request is taken as a stream of one: only so does a handler run before the request is there.
        if isinstance(method, StreamMethod):
            stream = self._stream(method, lane.room)
            self._serve_from(lane.pool, stream)
            return grpc.stream_stream_rpc_method_handler(stream)
        unary = self._unary(method, lane.room)
        self._serve_from(lane.pool, unary)
        return grpc.stream_unary_rpc_method_handler(unary)

    def _busy(self, method: AnyMethod, lane: AnyLane) -> Handler:
        refused = CallRefusedError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            SERVER_BUSY,
            f"{lane.pool.places} calls are under way, as many as are taken at once; to do: try again in a moment",
        )

        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:  # noqa: ARG001
            self._sent_away.count(refused.reason)
            method.count_busy(refused)
            _abort(context, refused.status, str(refused))

        self._serve_from(self._at_once, behavior)
        return grpc.stream_unary_rpc_method_handler(behavior)

    def _serve_from(self, pool: object, behavior: Callable[..., object]) -> None:
        if pool is not self.lane.pool:
            # As grpcio's own health service does it. A grpcio that forgets it would serve from the common threads.
            vars(behavior)["experimental_thread_pool"] = pool

    def _unary(
        self, method: Method[Any], room: WaitingRoom
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            call, request = self._call(context), Request(requests, context, room)
            try:
                return method.serve(call, request)
            except Exception as error:  # noqa: BLE001  # every one becomes a status
                ended = ending(call, error)
            finally:
                request.close()
            _abort(context, *ended)  # out of the `except`: what it raises would hold the error as its context

        return behavior

    def _stream(
        self, method: StreamMethod[Any], room: WaitingRoom
    ) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call, request = self._call(context), Request(requests, context, room)
            ended = None
            try:
                yield from method.serve(call, request)
            except Exception as error:  # noqa: BLE001  # every one becomes a status
                ended = ending(call, error)
            finally:
                request.close()
            if ended is not None:
                _abort(context, *ended)

        return behavior

    def _call(self, context: grpc.ServicerContext) -> Call:
        return Call(
            id=f"{self._prefix}-{next(self._numbers)}",
            peer=context.peer(),
            received_at=time.time(),
            metadata=context.invocation_metadata(),
            certificate=_certificate(context) if self._with_certificate else b"",
        )


def _certificate(context: grpc.ServicerContext) -> bytes:
    found = context.auth_context().get("x509_pem_cert", b"")
    return b"".join(found)  # type: ignore[arg-type]  # a list, whatever the stubs say; several are no one PEM block


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, text: str) -> NoReturn:
    context.abort(status, text)
