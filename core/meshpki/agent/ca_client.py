"""The CA, called over gRPC: one connection per call, and every status told apart by whose fault it is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

import grpc

from meshpki.agent.credential import CertificateCredential, TokenCredential
from meshpki.errors import MeshpkiError, RefusedError, UnavailableError, UsageError
from meshpki.hooks import CaEndpoint
from meshpki.runtime.files import read_capped
from meshpki.runtime.logs import redact
from meshpki.wire import methods
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshpki.wire.trust_bundles_pb2 import ReportRequest, ReportResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from meshpki.agent.credential import Credential

_Answer = TypeVar("_Answer")

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_ROOTS_BYTES: Final = 1024 * 1024
MAX_DETAIL: Final = 400
_REFUSALS: Final = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
)
_REASON: Final = re.compile(r"([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?=[:;, ]|$)")
_encode: Final = IstioCertificateRequest.SerializeToString
_decode: Final = IstioCertificateResponse.FromString
_CLOCK_SIGNS: Final = ("not yet valid", "has expired")
"""BoringSSL on the CA's own certificate. A machine's clock is wrong far more often than such a certificate."""
_TLS_SIGNS: Final = ("ssl", "tls", "certificate", "handshake", "verification")


class CaRefusedError(RefusedError):
    """The CA examined the request and refused it."""

    def __init__(self, status: str, reason: str, seen: str, *, todo: str) -> None:
        super().__init__(seen, todo=todo)
        self.status = status
        """The gRPC status by name, for example UNAUTHENTICATED."""
        self.reason = reason
        """The CA's own word for it, such as token_wrong_audience; else the status in lower case."""


class CaUnavailableError(UnavailableError):
    """The CA could not be reached, was too slow, or could not answer now. `status` is the gRPC status by name."""

    def __init__(self, status: str, seen: str, *, todo: str) -> None:
        super().__init__(seen, todo=todo)
        self.status = status


@dataclass(frozen=True, slots=True)
class Answer:
    """What the CA sent (PEM, leaf first, roots last), and the roots that its TLS certificate was checked against."""

    cert_chain: tuple[str, ...]
    roots_pem: bytes


@dataclass(frozen=True, slots=True)
class BundleHeld:
    """Which roots are served, as the CA is told: SHA-256 in hex, the number of changes since the start, how many."""

    digest: str
    sequence: int
    roots: int


@dataclass(frozen=True, slots=True)
class CaClient:
    """Asks for certificates. Holds no connection and no roots between calls.

    Renewals are hours apart, so each call dials anew and reads the file of roots anew: there is no stale
    connection or root to recover from (ztunnel#1679, istio-agent's redial after each error).
    """

    address: str
    server_name: str
    roots: Path
    cluster: str = ""
    deadline_seconds: float = 10.0
    renewal_address: str = ""
    """Where the CA takes a certificate as the credential; empty where it does not."""

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        """Ask once. Raises CaRefusedError, CaUnavailableError, or MachineError for the file of roots."""
        request = IstioCertificateRequest(csr=csr_pem, validity_duration=ttl_seconds)
        roots_pem = read_capped(self.roots, limit=MAX_ROOTS_BYTES)
        path = methods.CREATE_CERTIFICATE
        answer = await self._call(path, _encode(request), _decode, credential, roots_pem)
        return Answer(tuple(answer.cert_chain), roots_pem)

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        """Tell once which roots are served. Raises as `sign` does."""
        request = ReportRequest(digest=bundle.digest, sequence=bundle.sequence, roots=bundle.roots)
        roots_pem = read_capped(self.roots, limit=MAX_ROOTS_BYTES)
        encoded = request.SerializeToString()
        await self._call(methods.REPORT_BUNDLE, encoded, ReportResponse.FromString, credential, roots_pem)

    async def _call(
        self,
        path: str,
        request: bytes,
        decode: Callable[[bytes], _Answer],
        credential: Credential,
        roots_pem: bytes,
    ) -> _Answer:
        match credential:
            case TokenCredential(token):
                endpoint = CaEndpoint(self.address, self.server_name, roots_pem)
                metadata, identity = _metadata(token, self.cluster), None
            case CertificateCredential() as identity:
                endpoint = CaEndpoint(self._renewal_address(), self.server_name, roots_pem)
                token, metadata = "", ()
        credentials = _credentials(endpoint, identity)
        try:
            async with grpc.aio.secure_channel(endpoint.address, credentials, _options(endpoint)) as channel:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, _Answer]
                call = channel.unary_unary(path, response_deserializer=decode)
                return await call(request, metadata=metadata, timeout=self.deadline_seconds)
        except grpc.aio.AioRpcError as error:
            # Not chained: the error's repr holds the call's metadata of both directions.
            raise _translate(error.code(), error.details(), endpoint, token, identity) from None

    def _renewal_address(self) -> str:
        if not self.renewal_address:
            raise UsageError("no address where the CA renews against a certificate", wanted="a token")
        return self.renewal_address


def sign_once(
    endpoint: CaEndpoint,
    token: str,
    csr_pem: str,
    ttl_seconds: int,
    *,
    cluster: str = "",
    deadline_seconds: float = 10.0,
) -> list[str]:
    """Ask once and wait, for callers without an event loop. Raises CaRefusedError or CaUnavailableError."""
    request = IstioCertificateRequest(csr=csr_pem, validity_duration=ttl_seconds)
    with grpc.secure_channel(endpoint.address, _credentials(endpoint), _options(endpoint)) as channel:
        create = channel.unary_unary(methods.CREATE_CERTIFICATE, _encode, _decode)
        call = create.future(request, metadata=_metadata(token, cluster), timeout=deadline_seconds)
        if call.exception() is not None:
            raise _translate(call.code(), call.details(), endpoint, token)
        return list(call.result().cert_chain)


def _metadata(token: str, cluster: str) -> tuple[tuple[str, str], ...]:
    """Build the headers as istio-agent sends them. Checked here, for gRPC's own error would show the token."""
    for name, value in (("token", token), ("cluster's name", cluster)):
        if not value.isascii() or not value.isprintable():
            raise UsageError(f"the {name} holds a character that no header may hold", wanted="printable ASCII")
    bearer = (("authorization", f"Bearer {token}"),) if token else ()  # `verify` asks without one, to be refused
    return (*bearer, ("clusterid", cluster)) if cluster else bearer


def _credentials(endpoint: CaEndpoint, identity: CertificateCredential | None = None) -> grpc.ChannelCredentials:
    if identity is None:
        return grpc.ssl_channel_credentials(endpoint.roots_pem)
    return grpc.ssl_channel_credentials(endpoint.roots_pem, identity.key_pem, identity.chain_pem)


def _options(endpoint: CaEndpoint) -> list[tuple[str, int | str]]:
    return [
        ("grpc.ssl_target_name_override", endpoint.server_name),
        ("grpc.default_authority", endpoint.server_name),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.use_local_subchannel_pool", 1),  # else a dead connection's backoff would be shared with the next call
        ("grpc.enable_http_proxy", 0),  # a token goes to the CA and nowhere else
        ("grpc.enable_retries", 0),  # the rotation core decides when to try again
    ]


def _translate(
    code: grpc.StatusCode,
    details: str | None,
    endpoint: CaEndpoint,
    token: str,
    identity: CertificateCredential | None = None,
) -> MeshpkiError:
    status = code.name
    detail = _clean(details or "", token)
    if code in _REFUSALS:
        match = _REASON.match(detail)
        return CaRefusedError(
            status,
            match.group(1) if match else status.lower(),
            f"the CA at {endpoint.address} refused: {status}: {detail}",
            todo="see the CA's log and audit record; `meshpki token inspect` explains a token offline",
        )
    return CaUnavailableError(
        status,
        f"no certificate from the CA at {endpoint.address}: {status}: {detail}",
        todo=_ADVICE_FOR_CERTIFICATES
        if identity is not None and code is grpc.StatusCode.UNAVAILABLE
        else _advice(code, detail, endpoint),
    )


_ADVICE_FOR_CERTIFICATES: Final = (
    "check that the CA is running and renews by certificate there; one that it does not take it refuses in the"
    " handshake, without a word. A new token helps in any case"
)


def _advice(code: grpc.StatusCode, detail: str, endpoint: CaEndpoint) -> str:
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in detail.lower() for sign in _CLOCK_SIGNS):
        return "compare this machine's clock with the CA's: by ours the CA's own certificate is not valid now"
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in detail.lower() for sign in _TLS_SIGNS):
        return f"check that the roots given are the CA's and that its certificate names {endpoint.server_name}"
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return "check that the CA is running and that this machine can reach it"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return "the CA is shedding load: nothing to do here, it is asked again later"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the CA was too slow: see its load and its audit log's disk"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"what listens on {endpoint.address} is no CA: check the address"
        case _:
            return "see the CA's log"


def _clean(text: str, token: str) -> str:
    """Make a peer's words fit for a log: on one line, not endless, and without the token it may echo."""
    without = text.replace(token, "[token]") if token else text
    return redact("".join(c if c.isprintable() else " " for c in without))[:MAX_DETAIL]
