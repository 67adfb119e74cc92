"""One signing request as any client of the CA could send it, with whatever credentials it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from meshpki.wire import methods
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

TIMEOUT_SECONDS: Final = 30.0
TTL_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Verdict:
    """gRPC's status code by name, the server's sentence, and the chain if there is one."""

    status: str
    message: str
    chain: tuple[str, ...] = ()


class SigningClient:
    """A plain gRPC client of `IstioCertificateService`; not the agent, which would not send a wrong token at all."""

    def __init__(self, address: str, *, server_name: str, roots_pem: bytes) -> None:
        self._channel = grpc.secure_channel(
            address,
            grpc.ssl_channel_credentials(roots_pem),
            options=[("grpc.ssl_target_name_override", server_name), ("grpc.use_local_subchannel_pool", 1)],
        )
        self._call = self._channel.unary_unary(
            methods.CREATE_CERTIFICATE,
            request_serializer=IstioCertificateRequest.SerializeToString,
            response_deserializer=IstioCertificateResponse.FromString,
        )
        self._csr = _new_csr()

    def ask(self, token: str | None, seconds: float = TIMEOUT_SECONDS) -> Verdict:
        """Send one request with this token in the authorization header; None sends no header.

        Waits for a server that is away, for as long as `seconds`.
        """
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        request = IstioCertificateRequest(csr=self._csr, validity_duration=TTL_SECONDS)
        try:
            response = self._call(request, metadata=metadata, timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as error:
            return Verdict(error.code().name, error.details() or "")
        return Verdict("OK", "", tuple(response.cert_chain))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


def _new_csr() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()
