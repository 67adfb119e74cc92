"""The one gRPC server on the agent's unix socket: a table of methods, and everything else is UNIMPLEMENTED."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import defaultdict
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from meshpki.agent.socket import path as socket_path
from meshpki.agent.socket.sessions import CallRefusedError, Metadata
from meshpki.errors import MachineError, RefusedError
from meshpki.runtime.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from meshpki.agent.socket.sessions import Session, Sessions

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Of one message. Envoy's first one has 61 KiB, for it names every extension, and besides it what its node's metadata
hold: Istio copies the pod's annotations into them, for which Kubernetes allows 256 KiB.

It is memory only while a message is on its way, one for each stream, and only for who has a session: before, nothing
is read but of `HEARD_OUT` refused calls at a time. In node mode a token has `Limits.streams` of them; in pod mode all
of them are the one workload's.
"""
MAX_METADATA_BYTES: Final = 32 * 1024
"""Of one call's headers. The longest token that we read has 8 KiB, 11 as base64, which is how a `-bin` header may
come; a call with two of them is to hear that it has two. One hard limit: by its own two, 8 and 16 KiB, gRPC refuses
by chance what is between them.
"""
DRAIN_SECONDS: Final = 2.0
HEARD_OUT: Final = 16
HEARD_OUT_SECONDS: Final = 0.2
"""So many refused calls at a time, and so long, are heard out before they are told: see `_hear_out`."""
PATIENCE_SECONDS: Final = 15.0
"""For a row's `patience`. Longer than one call to the CA: of a refusal the caller hears."""
OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    # Else gRPC takes ever more of what nobody has read: 8 MiB of each stream that waits for the CA (measured).
    ("grpc.http2.bdp_probe", 0),
    ("grpc.so_reuseport", 0),
    # Whoever connects and says nothing, or asks nothing, is closed: each connection takes an open file.
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 120_000),
)
CONNECTIONS: Final = 512

Context: TypeAlias = "aio.ServicerContext[bytes, Any]"  # Any: the responses are the face's own
# Any: what a method is given and gives is the face's own; the table only carries it from decode to encode.
Handler: TypeAlias = "Callable[[Any, Any, Call], Awaitable[Any]]"


class Kind(StrEnum):
    """How many messages go which way, and so what a handler is given and gives back."""

    UNARY = "unary"
    """One request, one response: `handler(session, request, call)` returns the response."""
    SERVER_STREAM = "server stream"
    """One request, many responses: `handler(session, request, call)` uses `call.write`, returns None."""
    STREAM = "stream"
    """Many both ways: `handler(session, None, call)` uses `call.read` and `.write`, returns None."""


@dataclass(frozen=True, slots=True)
class Method:
    """One row of the table: what a face serves under a path."""

    path: str
    """`/package.Service/Method`."""
    kind: Kind
    handler: Handler
    """Runs inside a session; a public row's is given None. May raise CallRefusedError for a status, and RefusedError
    for INVALID_ARGUMENT.
    """
    decode: Callable[[bytes], object]
    """Called once there is a session. May raise protobuf's DecodeError, for INVALID_ARGUMENT."""
    encode: Callable[[Any], bytes]  # Any: see Handler
    admit: Callable[[Metadata], None] | None = None
    """Examines the headers before a session is opened. Raises CallRefusedError."""
    renamed: Mapping[grpc.StatusCode, grpc.StatusCode] = field(default_factory=dict)
    """Statuses of `Sessions.open` that this face's standard calls otherwise."""
    public: bool = False
    """Served without a session to whoever reaches the socket: it tells nothing of any workload."""
    patience: float | None = None
    """Seconds that a session may take to open, for calls that their clients make again; None waits without end."""


class Call:
    """One call, from its handler's side."""

    __slots__ = ("_context", "_row")

    def __init__(self, context: Context, row: Method) -> None:
        self._context = context
        self._row = row

    async def read(self) -> Any:  # Any: see Handler
        """Wait for the client's next message; None when there is to be no other. Raises RefusedError for what is none.

        Decoded here and not by gRPC, which would write a traceback of its own and say UNKNOWN.
        """
        data: object = await self._context.read()
        if not isinstance(data, bytes):
            return None
        try:
            return self._row.decode(data)
        except DecodeError:  # not chained: it says nothing more
            raise RefusedError(
                "the bytes of a request are none of this method's messages", wanted="protobuf, well-formed"
            ) from None

    async def write(self, response: Any) -> None:  # Any: see Handler
        """Send a message."""
        await self._context.write(response)


class SocketServer:
    """Serves the table on a socket. The socket appears in `start`, ready to be used, and goes in `stop`."""

    def __init__(
        self, path: Path, sessions: Sessions, methods: Sequence[Method], *, connections: int = CONNECTIONS
    ) -> None:
        """Take so many `connections` at a time; one more is closed at once."""
        self._path = path
        self._connections = connections
        self._sessions = sessions
        self._methods = tuple(methods)
        self._refused = Repeats(log, "a call is refused")
        self._heard_out = asyncio.Semaphore(HEARD_OUT)
        self._server: aio.Server | None = None
        self._socket: socket_path.OwnSocket | None = None

    async def start(self) -> None:
        """Bind, serve, and only then put the socket in place. Raises MachineError."""
        server = aio.server(options=[*OPTIONS, ("grpc.max_allowed_incoming_connections", self._connections)])
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
        """Dress a row as gRPC wants it: admit, open a session, handle, close, and turn errors into statuses.

        For gRPC all of them are streams: it reads the one request of any other method before it calls us, and so before
        anybody knows whose it is. On the wire there is no difference.
        """

        async def handle(_: object, context: Context) -> None:
            session: Session | None = None
            try:
                metadata: Metadata = tuple(context.invocation_metadata() or ())
                if row.admit is not None:
                    row.admit(metadata)
                if not row.public:
                    session = await self._open(row, metadata)
                metadata = ()  # a stream lives for hours; the token in its headers need not
                await _serve(row, session, Call(context, row))
            except (aio.InternalError, asyncio.CancelledError):
                raise  # InternalError: there is nobody any more to write to
            except Exception as error:  # noqa: BLE001 - each gets a status
                if session is None:
                    await self._hear_out(context)
                # Not `abort`: it raises an error that the call itself keeps, a cycle of 7 KiB for each refusal.
                status, said = self._verdict(row, error)
                context.set_code(status)
                context.set_details(said)
            finally:
                if session is not None:
                    session.close()

        return grpc.stream_stream_rpc_method_handler(handle, response_serializer=row.encode)

    async def _hear_out(self, context: Context) -> None:
        """Take the message that is on its way, and look at none of it.

        A client of grpc.aio that is still sending when it is refused hears "Internal error from Core" in place of the
        status. As a courtesy only, within bounds: what is read of strangers is memory.
        """
        if self._heard_out.locked():
            return
        async with self._heard_out:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARD_OUT_SECONDS):
                    await context.read()

    async def _open(self, row: Method, metadata: Metadata) -> Session:
        try:
            async with asyncio.timeout(row.patience):
                return await self._sessions.open(metadata)
        except TimeoutError:
            raise CallRefusedError(
                grpc.StatusCode.UNAVAILABLE, "the CA has not answered for this call's token yet", todo="try again"
            ) from None
        except CallRefusedError as error:
            error.status = row.renamed.get(error.status, error.status)
            raise

    def _verdict(self, row: Method, error: Exception) -> tuple[grpc.StatusCode, str]:
        """Say how a call ends that failed, and log it."""
        match error:
            case CallRefusedError():
                status = error.status
            case RefusedError():
                status = grpc.StatusCode.INVALID_ARGUMENT
            case _:
                log.error("a fault of the agent ended a call", exc_info=error, extra={"method": row.path})
                return grpc.StatusCode.INTERNAL, "a fault of the agent: see its log"
        self._refused.say(
            f"{status.name} {error.seen}",
            {"method": row.path, "status": status.name, "seen": error.seen, "wanted": error.wanted},
        )
        return status, str(error)


async def _serve(row: Method, session: Session | None, call: Call) -> None:
    request = None
    if row.kind is not Kind.STREAM and (request := await call.read()) is None:
        raise RefusedError("the call brings no request", wanted="one message")
    response = await row.handler(session, request, call)
    if row.kind is Kind.UNARY:
        await call.write(response)
