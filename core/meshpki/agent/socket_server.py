"""The one gRPC server on the agent's unix socket: a table of methods, and everything else is UNIMPLEMENTED."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from grpc import aio

from meshpki.agent import socket_path
from meshpki.agent.repeats import Repeats
from meshpki.agent.sessions import CallRefusedError, Metadata
from meshpki.errors import MachineError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from pathlib import Path

    from meshpki.agent.sessions import Session, Sessions

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 256 * 1024
"""An Envoy says 61 KB of itself in a stream's first message, and Istio adds its pod's labels and annotations."""
DRAIN_SECONDS: Final = 2.0

Context: TypeAlias = "aio.ServicerContext[Any, Any]"  # Any: the messages are the face's own
# Any: what a method is given and gives is the face's own; the table only carries it from decode to encode.
Handler: TypeAlias = "Callable[[Session, Any, Context], Awaitable[Any]]"


class Kind(StrEnum):
    """How many messages go which way, and so what a handler is given and gives back."""

    UNARY = "unary"
    """One request, one response: `handler(session, request, context)` returns the response."""
    SERVER_STREAM = "server stream"
    """One request, many responses: `handler(session, request, context)` uses `context.write`, returns None."""
    STREAM = "stream"
    """Many both ways: `handler(session, None, context)` uses `context.read` and `.write`, returns None."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table: what a face serves under a path."""

    path: str
    """`/package.Service/Method`."""
    kind: Kind
    handler: Handler
    """Runs inside a session. May raise CallRefusedError for a status, RefusedError for INVALID_ARGUMENT."""
    decode: Callable[[bytes], object]
    encode: Callable[[Any], bytes]  # Any: see Handler
    admit: Callable[[Metadata], None] | None = None
    """Examines the headers before a session is opened. Raises CallRefusedError."""
    stranger: grpc.StatusCode = grpc.StatusCode.UNAUTHENTICATED
    """What this face's standard calls a caller whose credential is missing or not accepted (node mode)."""


class SocketServer:
    """Serves the table on a socket. The socket appears in `start`, ready to be used, and goes in `stop`."""

    def __init__(self, path: Path, sessions: Sessions, methods: Sequence[Method]) -> None:
        self._path = path
        self._sessions = sessions
        self._methods = tuple(methods)
        self._refused = Repeats(log, "a call is refused")
        self._server: aio.Server | None = None
        self._socket: socket_path.OwnSocket | None = None

    async def start(self) -> None:
        """Bind, serve, and only then put the socket in place. Raises MachineError."""
        server = aio.server(options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers(self._handlers())
        with socket_path.taking_over(self._path) as passing:
            try:
                server.add_insecure_port(f"unix:{passing}")
            except RuntimeError as error:
                raise MachineError(
                    f"could not listen on {self._path}", todo="GRPC_VERBOSITY=debug in the environment says why"
                ) from error
            await server.start()
            self._socket = socket_path.put_in_place(passing, self._path)
        self._server = server
        log.info("the socket is served", extra={"socket": str(self._path), "methods": len(self._methods)})

    async def stop(self) -> None:
        """Remove the socket, let every stream end with status OK, so that clients come back, and close."""
        if self._socket is not None:
            self._socket.remove()
        self._sessions.close()
        if self._server is not None:
            await self._server.stop(DRAIN_SECONDS)

    def _handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        """Give the whole surface of this socket: what has no row is UNIMPLEMENTED."""
        services: defaultdict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]] = defaultdict(dict)  # Any: see Handler
        for row in self._methods:
            service, name = row.path.lstrip("/").split("/")
            if name in services[service]:
                raise ValueError(f"{row.path} stands in the table twice")
            services[service][name] = self._adapted(row)
        return tuple(grpc.method_handlers_generic_handler(service, table) for service, table in services.items())

    def _adapted(self, row: Method) -> grpc.RpcMethodHandler[Any, Any]:
        """Dress a row as gRPC wants it: admit, open a session, handle, close, and turn errors into statuses."""

        async def handle(request: object, context: Context) -> object:
            session: Session | None = None
            try:
                metadata: Metadata = tuple(context.invocation_metadata() or ())
                if row.admit is not None:
                    row.admit(metadata)
                session = await self._sessions.open(metadata)
                metadata = ()  # a stream lives for hours; the token in its headers need not
                # For a stream gRPC gives an iterator here, which must not be mixed with `context.read`.
                return await row.handler(session, None if row.kind is Kind.STREAM else request, context)
            except (aio.AbortError, aio.InternalError, asyncio.CancelledError):
                raise  # InternalError: there is nobody any more to write to
            except Exception as error:
                await self._abort(context, row, error)
                raise  # not reached: abort raises
            finally:
                if session is not None:
                    session.close()

        match row.kind:
            case Kind.UNARY:
                make = grpc.unary_unary_rpc_method_handler
            case Kind.SERVER_STREAM:
                make = grpc.unary_stream_rpc_method_handler
            case Kind.STREAM:
                make = grpc.stream_stream_rpc_method_handler
        return make(handle, request_deserializer=row.decode, response_serializer=row.encode)

    async def _abort(self, context: Context, row: Method, error: Exception) -> None:
        match error:
            case CallRefusedError(status=grpc.StatusCode.UNAUTHENTICATED):
                status = row.stranger
            case CallRefusedError():
                status = error.status
            case RefusedError():
                status = grpc.StatusCode.INVALID_ARGUMENT
            case _:
                log.error("a fault of the agent ended a call", exc_info=error, extra={"method": row.path})
                await context.abort(grpc.StatusCode.INTERNAL, "a fault of the agent: see its log")
        self._refused.say(
            f"{status.name} {error.seen}",
            {"method": row.path, "status": status.name, "seen": error.seen, "wanted": error.wanted},
        )
        await context.abort(status, str(error))
