"""A process that is a CA server, or a bare gRPC server with the same TLS and an answer of the same size."""

from __future__ import annotations

import contextlib
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from benchmarks.processes import SERVER_CORE, Message, answer_requests, pin, usage
from meshpki.ca.config import Limits
from meshpki.ca.server.ca_server import CaServer
from meshpki.ca.server.calls.grpc_options import OPTIONS
from meshpki.runtime.garbage import settle
from meshpki.runtime.scheduling import without_preemption
from meshpki.wire.methods import CREATE_CERTIFICATE
from support.authority import make_authority
from support.ca_server import SERVER_NAME, make_config
from support.tokens import TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.ca.config import CaConfig
    from support.authority import TestAuthority

ANSWER_BYTES = 2500
TOKENS = 3000
_closing = contextlib.ExitStack()


class _Echo(grpc.GenericRpcHandler):
    def __init__(self) -> None:
        answer = bytes(ANSWER_BYTES)

        def behavior(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            next(requests)
            context.invocation_metadata()
            return answer

        self._handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_unary_rpc_method_handler(behavior)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        return self._handler if handler_call_details.method == CREATE_CERTIFICATE else None


def start(kind: str, **limits: int) -> Message:
    """Serve from a directory of its own; says where, and what the clients need."""
    pin(SERVER_CORE)
    without_preemption()  # as `serve` does
    directory = Path(_closing.enter_context(tempfile.TemporaryDirectory(prefix="meshpki-bench-")))
    directory.chmod(0o700)
    authority = make_authority()
    config = replace(make_config(directory, TokenMaker(), authority=authority), limits=Limits(**limits))
    maker, now, tokens = TokenMaker(), time.time(), directory / "bearer-tokens"
    made = (maker.token(now=now, lifetime=7200, jti=f"bench-{number}") for number in range(TOKENS))
    tokens.write_bytes(b"\n".join(made))
    address = _start_ca(config) if kind == "ca" else _start_echo(config, authority)
    return {"address": address, "roots": authority.root_pem.decode(), "name": SERVER_NAME, "tokens": str(tokens)}


def _start_ca(config: CaConfig) -> str:
    server = CaServer(config).start()
    _closing.callback(server.stop)
    settle()  # as `serve` does
    return server.address


def _start_echo(config: CaConfig, authority: TestAuthority) -> str:
    from meshpki.ca.server.serving_certificate import ServingCertificate

    pair = ServingCertificate(authority.issuer, config.server_names).pair(time.time())
    server = grpc.server(ThreadPoolExecutor(config.limits.in_flight), handlers=[_Echo()], options=OPTIONS)
    credentials = grpc.ssl_server_credentials([(pair.key_pem, pair.chain_pem)])
    port = server.add_secure_port("127.0.0.1:0", credentials)
    server.start()
    settle()
    _closing.callback(lambda: server.stop(1).wait())
    return f"127.0.0.1:{port}"


if __name__ == "__main__":
    with _closing:
        answer_requests({"start": start, "usage": usage})
