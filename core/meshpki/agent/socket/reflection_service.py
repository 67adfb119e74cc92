"""gRPC server reflection on the agent's socket, for tools such as grpcurl: v1 and v1alpha (ADR 0019).

It tells which methods there are and of which fields their messages consist, the same to everybody, and nothing of any
workload: so it needs no session, and in node mode no token.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import grpc

from meshpki.agent.socket.server import Kind, Method
from meshpki.agent.socket.sessions import CallRefusedError
from meshpki.wire.methods import REFLECTION, REFLECTION_ALPHA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.agent.socket.reflection import Reflection
    from meshpki.agent.socket.server import Call

AT_ONCE: Final = 8
"""Streams, of everybody together: anybody may open one."""
STREAM_SECONDS: Final = 60.0
"""Then a stream ends with OK, and who is not done opens another."""
_STREAMING: Final = {Kind.UNARY: (False, False), Kind.SERVER_STREAM: (False, True), Kind.STREAM: (True, True)}


def with_reflection(table: Sequence[Method], *, seconds: float = STREAM_SECONDS) -> tuple[Method, ...]:
    """Add the rows of this face, which describe the others and themselves."""
    face = _Face(seconds)
    rows = tuple(
        Method(path, Kind.STREAM, face.serve, decode=_decode, encode=_encode, public=True)
        for path in (REFLECTION, REFLECTION_ALPHA)
    )
    face.table = (*table, *rows)
    return face.table


class _Face:
    def __init__(self, seconds: float) -> None:
        self.table: tuple[Method, ...] = ()
        self._seconds = seconds
        self._streams = 0
        self._reflection: Reflection | None = None

    async def serve(self, _: None, __: None, call: Call) -> None:
        """Answer one stream's requests, one after the other."""
        if self._streams >= AT_ONCE:
            raise CallRefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "reflection is busy", todo="try again")
        self._streams += 1
        try:
            async with asyncio.timeout(self._seconds):
                await self._answer(call)
        except TimeoutError:
            pass
        finally:
            self._streams -= 1

    async def _answer(self, call: Call) -> None:
        if self._reflection is None:
            self._reflection = await asyncio.to_thread(self._load)
        while (request := await call.read()) is not None:
            await call.write(self._reflection.answer(request))

    def _load(self) -> Reflection:
        """Import what nearly no agent ever needs, not in the loop's own time."""
        from meshpki.agent.socket.reflection import Reflection, Served

        return Reflection(Served(row.path, *_STREAMING[row.kind]) for row in self.table)


def _decode(data: bytes) -> object:
    from meshpki.wire.reflection_pb2 import ServerReflectionRequest

    return ServerReflectionRequest.FromString(data)


def _encode(response: Any) -> bytes:  # Any: a ServerReflectionResponse, whose module is not loaded here
    return bytes(response.SerializeToString())
