"""The one gRPC server on the agent's unix socket: a table of methods, and everything else is UNIMPLEMENTED."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeAlias
from weakref import WeakKeyDictionary

import grpc
from google.protobuf.message import DecodeError

from meshpki.agent.socket import path as socket_path
from meshpki.agent.socket.http2.allowance import Allowance
from meshpki.agent.socket.http2.limits import Limits
from meshpki.agent.socket.http2.listener import Listener
from meshpki.agent.socket.http2.messages import MessageRefusedError
from meshpki.agent.socket.sessions import CallRefusedError, Metadata
from meshpki.errors import RefusedError
from meshpki.runtime.files import machine_errors
from meshpki.runtime.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
    from pathlib import Path

    from meshpki.agent.rotation.feed import Feed
    from meshpki.agent.socket.http2.call import Http2Call
    from meshpki.agent.socket.http2.headers import Request
    from meshpki.agent.socket.sessions import Session, Sessions

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 1024 * 1024
"""Of one message. Envoy's first one has 61 KiB, for it names every extension, and besides it what its node's metadata
hold: Istio copies the pod's annotations into them, for which Kubernetes allows 256 KiB.

It is memory only while a message is on its way, one for each stream, and only for who has a session: before, nothing
is read. All streams of one identity together have `Limits.large` of what does not fit into their windows.
"""
MAX_METADATA_BYTES: Final = 32 * 1024
"""Of one call's headers. The longest token that we read has 8 KiB, 11 as base64, which is how a `-bin` header may
come; a call with two of them is to hear that it has two.
"""
DRAIN_SECONDS: Final = 2.0
HEARD_OUT_SECONDS: Final = 0.2
"""So long a call that is refused is heard out before it is told: see `Http2Call.hear_out`. It holds no memory."""
PATIENCE_SECONDS: Final = 15.0
"""Of impatient rows. Longer than one call to the CA as it is by default: of a refusal the caller hears."""
LIMITS: Final = Limits(message=MAX_REQUEST_BYTES, headers=MAX_METADATA_BYTES)
CONNECTIONS: Final = 512

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
    impatient: bool = False
    """Its clients make the call again: a session may take the server's `patience` to open. Others wait without end."""


class Call:
    """One call, from its handler's side."""

    __slots__ = ("_call", "_row")

    def __init__(self, call: Http2Call, row: Method) -> None:
        self._call = call
        self._row = row

    async def read(self) -> Any:  # Any: see Handler
        """Wait for the client's next message; None when there is to be no other. Raises RefusedError."""
        try:
            data = await self._call.read()
            return None if data is None else self._row.decode(data)
        except DecodeError:  # not chained: it says nothing more
            raise RefusedError(
                "the bytes of a request are none of this method's messages", wanted="protobuf, well-formed"
            ) from None
        except MessageRefusedError as error:
            raise CallRefusedError(grpc.StatusCode[error.why.value], error.words) from None

    async def write(self, response: Any) -> None:  # Any: see Handler
        """Send a message."""
        await self._call.write(self._row.encode(response))


class SocketServer:
    """Serves the table on a socket. The socket appears in `start`, ready to be used, and goes in `stop`."""

    def __init__(
        self,
        path: Path,
        sessions: Sessions,
        methods: Sequence[Method],
        *,
        connections: int = CONNECTIONS,
        limits: Limits = LIMITS,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Take so many `connections` at a time; one more is closed at once. `patience`: see Method.impatient."""
        self._path = path
        self._sessions = sessions
        self._methods = {row.path: row for row in methods}
        if len(self._methods) != len(methods):
            raise ValueError("a path stands in the table twice")
        self._patience = patience
        self._large = limits.large
        self._allowances: MutableMapping[Feed, Allowance] = WeakKeyDictionary()
        self._refused = Repeats(log, "a call is refused")
        self._listener = Listener(self._answer, limits, connections)
        self._socket: socket_path.OwnSocket | None = None

    async def start(self) -> None:
        """Bind, serve, and only then put the socket in place. Raises MachineError."""
        with socket_path.taking_over(self._path) as passing:
            with machine_errors("could not listen on", self._path):
                self._listener.listen(passing)
            self._socket = socket_path.put_in_place(passing, self._path)
        log.info("the socket is served", extra={"socket": str(self._path), "methods": len(self._methods)})

    async def stop(self) -> None:
        """Remove the socket, let every stream end with status OK, so that clients come back, and close."""
        if self._socket is not None:
            self._socket.remove()
        self._sessions.close()
        await self._listener.stop(DRAIN_SECONDS)

    async def _answer(self, http2: Http2Call, request: Request) -> tuple[int, str]:
        """Answer one call: admit, open a session, handle, close, and turn errors into statuses.

        What has no row is UNIMPLEMENTED. Of the call's messages nothing is read before anybody knows whose it is.
        """
        row = self._methods.get(request.path)
        if row is None:
            await http2.hear_out(HEARD_OUT_SECONDS)
            return _number(grpc.StatusCode.UNIMPLEMENTED), "there is no such method here"
        metadata: Metadata = request.metadata
        del request  # a stream lives for hours; the token in its headers need not
        session: Session | None = None
        try:
            if row.admit is not None:
                row.admit(metadata)
            if not row.public:
                session = await self._open(row, metadata)
                http2.allowance = self._allowance_of(session)
            metadata = ()
            await _serve(row, session, Call(http2, row))
        except Exception as error:  # noqa: BLE001 - each gets a status
            if session is None:
                await http2.hear_out(HEARD_OUT_SECONDS)
            status, words = self._verdict(row, error)
            return _number(status), words
        finally:
            if session is not None:
                session.close()
        return _number(grpc.StatusCode.OK), ""

    def _allowance_of(self, session: Session) -> Allowance:
        """One for all streams of an identity: of a node's token, or of a pod's one workload."""
        return self._allowances.setdefault(session.feed, Allowance(self._large))

    async def _open(self, row: Method, metadata: Metadata) -> Session:
        try:
            async with asyncio.timeout(self._patience if row.impatient else None):
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
        reason = ""
        match error:
            case CallRefusedError():
                status, reason = error.status, error.reason
            case RefusedError():
                status = grpc.StatusCode.INVALID_ARGUMENT
            case _:
                log.error("a fault of the agent ended a call", exc_info=error, extra={"method": row.path})
                return grpc.StatusCode.INTERNAL, "a fault of the agent: see its log"
        self._refused.say(
            f"{status.name} {reason} {error.seen}",
            {"method": row.path, "status": status.name, "reason": reason, "seen": error.seen, "wanted": error.wanted},
        )
        return status, str(error)


async def _serve(row: Method, session: Session | None, call: Call) -> None:
    request = None
    if row.kind is not Kind.STREAM and (request := await call.read()) is None:
        raise RefusedError("the call brings no request", wanted="one message")
    response = await row.handler(session, request, call)
    if row.kind is Kind.UNARY:
        await call.write(response)


def _number(status: grpc.StatusCode) -> int:
    number: int = status.value[0]
    return number
