"""Secret discovery on a unix socket: Envoy's streams over grpc.aio, each driven by an `SdsStream`."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeAlias

import grpc
from grpc import aio

from meshpki.agent import socket_path
from meshpki.agent.sds import SdsStream
from meshpki.errors import MachineError, RefusedError
from meshpki.wire import methods
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.agent.feed import Feed

log = logging.getLogger(__name__)

MAX_REQUEST_BYTES: Final = 64 * 1024
DRAIN_SECONDS: Final = 2.0
Context: TypeAlias = "aio.ServicerContext[DiscoveryRequest, DiscoveryResponse]"


class SdsServer:
    """Serves a feed on a socket. The socket appears in `start`, ready to be used, and goes in `stop`."""

    def __init__(self, path: Path, feed: Feed) -> None:
        self._path = path
        self._feed = feed
        self._server: aio.Server | None = None
        self._socket: socket_path.OwnSocket | None = None

    async def start(self) -> None:
        """Bind, serve, and only then put the socket in place. Raises MachineError."""
        server = aio.server(options=[("grpc.max_receive_message_length", MAX_REQUEST_BYTES), ("grpc.so_reuseport", 0)])
        server.add_generic_rpc_handlers((self._handlers(),))
        with socket_path.taking_over(self._path) as passing:
            try:
                server.add_insecure_port(f"unix:{passing}")
            except RuntimeError as error:
                raise MachineError(f"could not listen on {self._path}", todo="see the log of gRPC above") from error
            await server.start()
            self._socket = socket_path.put_in_place(passing, self._path)
        self._server = server
        log.info("secrets are served", extra={"socket": str(self._path)})

    async def stop(self) -> None:
        """Remove the socket, let every stream end with status OK, so that clients come back, and close."""
        if self._socket is not None:
            self._socket.remove()
        self._feed.close()
        if self._server is not None:
            await self._server.stop(DRAIN_SECONDS)

    def _handlers(self) -> grpc.GenericRpcHandler:
        """Give the whole surface of this socket: what is not named here is UNIMPLEMENTED (delta and fetch too)."""
        stream = grpc.stream_stream_rpc_method_handler(
            self._stream_secrets,
            request_deserializer=DiscoveryRequest.FromString,
            response_serializer=DiscoveryResponse.SerializeToString,
        )
        service, method = methods.STREAM_SECRETS.lstrip("/").split("/")
        return grpc.method_handlers_generic_handler(service, {method: stream})

    async def _stream_secrets(self, _: object, context: Context) -> None:
        """Drive one stream: whichever comes first, a request or a new snapshot, is given to the logic."""
        feed = self._feed
        reading = asyncio.create_task(_read(context))
        changed = feed.changes()
        stream = SdsStream(feed.current)
        try:
            while not feed.closed:
                waiting: set[asyncio.Future[DiscoveryRequest | None] | asyncio.Future[None]] = {reading, changed}
                await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if changed.done():
                    changed = feed.changes()
                    await _send(context, stream.update(feed.current))
                if reading.done():
                    request = reading.result()
                    if request is None:
                        return
                    await _send(context, stream.request(request))
                    reading = asyncio.create_task(_read(context))
        except RefusedError as error:
            log.warning("a client's stream is refused", extra={"seen": error.seen, "wanted": error.wanted})
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        finally:
            reading.cancel()


async def _read(context: Context) -> DiscoveryRequest | None:
    """Wait for the client's next request; None once it sends no more."""
    request: object = await context.read()
    return request if isinstance(request, DiscoveryRequest) else None


async def _send(context: Context, response: DiscoveryResponse | None) -> None:
    if response is not None:
        await context.write(response)
        log.debug("sent", extra={"version": response.version_info, "secrets": len(response.resources)})
