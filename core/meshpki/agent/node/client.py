"""A node's agent asked as an Envoy asks it: with a workload's token, for the workload's identity. Waits; no loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import grpc
from cryptography import x509

from meshpki.agent.node.token import ISTIO_HEADER
from meshpki.agent.rotation.acceptance import spiffe_id_of
from meshpki.agent.sds.resources import DEFAULT
from meshpki.errors import RefusedError, UnavailableError
from meshpki.wire.methods import FETCH_SECRETS, SECRET_TYPE_URL
from meshpki.wire.sds_pb2 import DiscoveryRequest, DiscoveryResponse, Secret

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """The identity that the token brings. `not_after` is epoch seconds."""

    spiffe_id: str
    not_after: int


def ask(socket: Path, token: bytes, seconds: float) -> NodeAnswer:
    """Ask once. Raises RefusedError for a token that is not accepted, UnavailableError when no answer comes in time."""
    request = DiscoveryRequest(resource_names=[DEFAULT], type_url=SECRET_TYPE_URL)
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(f"unix:{socket}", options=options) as channel:
        fetch = channel.unary_unary(FETCH_SECRETS, DiscoveryRequest.SerializeToString, DiscoveryResponse.FromString)
        try:
            response = fetch(request, metadata=((ISTIO_HEADER, token),), timeout=seconds)
        except grpc.RpcError as error:
            # Not chained: the error's repr may hold the call's metadata.
            raise _translate(cast("grpc.Call", error), socket) from None
    certificate = Secret.FromString(response.resources[0].value).tls_certificate.certificate_chain.inline_bytes
    leaf = x509.load_pem_x509_certificates(certificate)[0]
    return NodeAnswer(str(spiffe_id_of(leaf)), int(leaf.not_valid_after_utc.timestamp()))


def _translate(call: grpc.Call, socket: Path) -> RefusedError | UnavailableError:
    seen = f"the agent at {socket} answered {call.code().name}: {call.details()}"
    if call.code() is grpc.StatusCode.UNAUTHENTICATED:
        return RefusedError(seen, todo="see the agent's log, which has the CA's reason")
    return UnavailableError(seen, todo="see the agent's log")
