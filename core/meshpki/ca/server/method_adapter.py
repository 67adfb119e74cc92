"""Between grpcio and the method table: a name for every call, bounded waiting, refusals as status codes."""

from __future__ import annotations

import itertools
import os
import time
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol, TypeAlias

import grpc

from meshpki.ca.server.endings import CallerLeftError, ending
from meshpki.ca.server.methods import Call, CallRefusedError, Method, StreamMethod

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import ThreadPoolExecutor

REQUEST_TIMEOUT_SECONDS: Final = 5.0
"""How long a caller may take from the headers of a call to its request."""

AnyMethod: TypeAlias = Method[Any] | StreamMethod[Any]  # Any: each method's grant was typed where it was made


class CallsInFlight:
    """Which calls are being served, by their id. Safe for threads: a set's own operations are."""

    def __init__(self) -> None:
        self._calls: set[str] = set()
        self.add = self._calls.add
        self.discard = self._calls.discard

    def count(self) -> int:
        """How many there are."""
        return len(self._calls)


class MethodTable(grpc.GenericRpcHandler):
    """Serves the methods of a table; for every other path grpcio answers UNIMPLEMENTED."""

    def __init__(
        self,
        methods: Iterable[AnyMethod],
        in_flight: CallsInFlight | None = None,
        aside: ThreadPoolExecutor | None = None,
        *,
        with_certificate: bool = False,
    ) -> None:
        """`aside` has the threads for methods that are served aside. `with_certificate`: for a listener that demands
        client certificates; rules see them then.
        """
        self._with_certificate = with_certificate
        self._prefix = os.urandom(4).hex()
        self._numbers = itertools.count(1)
        self._waiting: dict[grpc.ServicerContext, float] = {}
        self._in_flight = in_flight or CallsInFlight()
        self._aside = aside
        self.methods = {method.path: method for method in methods}
        self._handlers = {path: self._adapt(method) for path, method in self.methods.items()}

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Find the method; None for a path that is not in the table."""
        return self._handlers.get(handler_call_details.method)

    def cancel_late(self, now: float) -> int:
        """Cancel calls that keep a thread waiting for their request; `now` is the monotonic clock's."""
        late = [context for context, since in list(self._waiting.items()) if now - since > REQUEST_TIMEOUT_SECONDS]
        for context in late:
            context.cancel()
        return len(late)

    def _adapt(self, method: AnyMethod) -> grpc.RpcMethodHandler[bytes, bytes]:
        # A request is taken as a stream of one: only so does a handler run before the request is there.
        if isinstance(method, StreamMethod):
            stream = self._stream(method)
            self._set_aside(method, stream)
            return grpc.stream_stream_rpc_method_handler(stream)
        unary = self._unary(method)
        self._set_aside(method, unary)
        return grpc.stream_unary_rpc_method_handler(unary)

    def _set_aside(self, method: AnyMethod, behavior: Callable[..., object]) -> None:
        if method.aside and self._aside is not None:
            # As grpcio's own health service does it. A grpcio that forgets it would serve from the common threads.
            vars(behavior)["experimental_thread_pool"] = self._aside

    def _unary(self, method: Method[Any]) -> Callable[[Iterator[bytes], grpc.ServicerContext], bytes]:
        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            call, request = self._call(context), _Request(requests, context, self._waiting)
            self._in_flight.add(call.id)
            try:
                return method.serve(call, request)
            except Exception as error:  # noqa: BLE001  # every one becomes a status
                ended = ending(call, error)
            finally:
                self._in_flight.discard(call.id)
                request.close()
            _abort(context, *ended)  # out of the `except`: what it raises would hold the error as its context

        return behavior

    def _stream(self, method: StreamMethod[Any]) -> Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]:
        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            call, request = self._call(context), _Request(requests, context, self._waiting)
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


class Received(Protocol):
    """The request of a call, for a handler that wants it."""

    def __call__(self) -> bytes:
        """Wait for the request. Raises CallRefusedError or CallerLeftError when the call ends without one."""
        ...

    def alive(self) -> bool:
        """Whether the caller still waits for an answer."""
        ...


class _Request:
    """A handler may keep it for as long as it likes: of a call that has ended it holds nothing."""

    __slots__ = ("_context", "_requests", "_waiting")

    def __init__(
        self, requests: Iterator[bytes], context: grpc.ServicerContext, waiting: dict[grpc.ServicerContext, float]
    ) -> None:
        self._requests = requests
        self._context: grpc.ServicerContext | None = context
        self._waiting = waiting

    def __call__(self) -> bytes:
        context = self._context
        if context is None:
            raise CallerLeftError
        self._waiting[context] = time.monotonic()
        try:
            return next(self._requests)
        except StopIteration:
            raise CallRefusedError(
                grpc.StatusCode.INVALID_ARGUMENT, "request_missing", "the call ended without a request"
            ) from None
        except grpc.RpcError:
            raise CallerLeftError from None
        finally:
            self._waiting.pop(context, None)

    def alive(self) -> bool:
        return self._context is not None and bool(self._context.is_active())

    def close(self) -> None:
        """The call has ended."""
        self._context, self._requests = None, iter(())


def _certificate(context: grpc.ServicerContext) -> bytes:
    found = context.auth_context().get("x509_pem_cert", b"")
    return b"".join(found)  # type: ignore[arg-type]  # a list, whatever the stubs say; several are no one PEM block


def _abort(context: grpc.ServicerContext, status: grpc.StatusCode, text: str) -> NoReturn:
    context.abort(status, text)
