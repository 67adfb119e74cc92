"""A process that is the least that could serve secrets with grpcio: a server on a unix socket, one answer in bytes."""

from __future__ import annotations

import asyncio
import os
import threading

import grpc
from google.protobuf.any_pb2 import Any
from grpc import aio

from benchmarks.processes import SERVER_CORE, Message, answer_requests, pin
from meshpki.wire.methods import STREAM_SECRETS
from meshpki.wire.sds_pb2 import DiscoveryResponse

_ready = threading.Event()


class _Answer(grpc.GenericRpcHandler):
    def __init__(self, size: int) -> None:
        answer = DiscoveryResponse(version_info="1", nonce="1", resources=[Any(value=bytes(size))]).SerializeToString()

        async def behavior(_: object, context: aio.ServicerContext[bytes, bytes]) -> None:
            await context.read()
            await context.write(answer)
            while isinstance(await context.read(), bytes):
                pass

        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(behavior)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handler if handler_call_details.method == STREAM_SECRETS else None


async def _serve(path: str, size: int) -> None:
    server = aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((_Answer(size),))
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    _ready.set()
    await asyncio.Event().wait()


def start(path: str, size: int) -> Message:
    """Serve on a path; returns when it does."""
    pin(SERVER_CORE)
    threading.Thread(target=lambda: asyncio.run(_serve(path, size)), daemon=True).start()
    _ready.wait(30)
    return {"pid": os.getpid()}


if __name__ == "__main__":
    answer_requests({"start": start})
