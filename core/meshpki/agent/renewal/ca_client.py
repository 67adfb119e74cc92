"""The CA, called over gRPC: one connection per call, and every status told apart by whose fault it is."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import grpc

from meshpki.agent.renewal.credential import CertificateCredential, TokenCredential
from meshpki.agent.rotation.bundle import pem_of
from meshpki.errors import MachineError, MeshpkiError, RefusedError, UnavailableError, UsageError
from meshpki.runtime.aside import aside
from meshpki.runtime.logs import redact
from meshpki.runtime.open_files import OpenFilesError, require
from meshpki.wire import methods
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from meshpki.wire.trust_bundles_pb2 import ReportRequest, ReportResponse

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from meshpki.agent.renewal.credential import Credential
    from meshpki.agent.rotation.bundle import Roots
    from meshpki.hooks import CaEndpoint

_Answer = TypeVar("_Answer")

MAX_ANSWER_BYTES: Final = 256 * 1024
MAX_DETAIL: Final = 400
_LOOK_SECONDS: Final = 0.1
"""Between two looks at whether anybody waits for the answer."""
FILES_FOR_A_CALL: Final = 8
"""Connection and name look-up; gRPC's first channel takes six of its own, and ends the process if it cannot."""
_CALLING: Final = "could not call the CA"
_OUT_OF_FILES: Final = "Too many open files"
"""In gRPC's words for a connection that could not be made: another call took what was left."""
_REFUSALS: Final = frozenset(
    {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.INVALID_ARGUMENT}
)
_REASON: Final = re.compile(r"([a-z][a-z0-9]*(?:_[a-z0-9]+)+)(?=[:;, ]|$)")
_encode: Final = IstioCertificateRequest.SerializeToString
_decode: Final = IstioCertificateResponse.FromString
_CLOCK_SIGNS: Final = ("not yet valid", "has expired")
"""BoringSSL on the CA's own certificate. A machine's clock is wrong far more often than such a certificate."""
_NAME_SIGNS: Final = ("errors resolving", "hostname lookup", "name not found", "dns resolution")
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

    def __init__(self, status: str, seen: str, *, todo: str, reason: str = "") -> None:
        super().__init__(seen, todo=todo)
        self.status = status
        self.reason = reason
        """The CA's own word for it, such as review_unavailable; empty when the words are not a CA's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the CA sent: PEM, leaf first, roots last."""

    cert_chain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BundleHeld:
    """Which roots are served, as the CA is told: SHA-256 in hex, the number of changes since the start, how many."""

    digest: str
    sequence: int
    roots: int


class KnownRoots(Protocol):
    """The roots that the CA's own certificate has to chain to, as they are now: a RootsFile."""

    @property
    def current(self) -> Roots:
        """Empty while there are none."""
        ...

    @property
    def lacking(self) -> str:
        """Why there are none."""
        ...


@dataclass(frozen=True, slots=True)
class CaClient:
    """Asks for certificates. Holds no connection between calls.

    Renewals are hours apart, so each call dials anew, and checks the CA by the roots of that moment: there is no stale
    connection or root to recover from (ztunnel#1679, istio-agent's redial after each error).
    """

    address: str
    server_name: str
    roots: KnownRoots
    cluster: str = ""
    deadline_seconds: float = 10.0
    renewal_address: str = ""
    """Where the CA takes a certificate as the credential; empty where it does not."""

    async def sign(self, csr_pem: str, credential: Credential, ttl_seconds: int) -> Answer:
        """Ask once. Raises CaRefusedError, CaUnavailableError, or MachineError when there are no roots."""
        request = IstioCertificateRequest(csr=csr_pem, validity_duration=ttl_seconds)
        answer = await self._call(methods.CREATE_CERTIFICATE, _encode(request), _decode, credential)
        return Answer(tuple(answer.cert_chain))

    async def report(self, bundle: BundleHeld, credential: Credential) -> None:
        """Tell once which roots are served. Raises as `sign` does."""
        request = ReportRequest(digest=bundle.digest, sequence=bundle.sequence, roots=bundle.roots)
        await self._call(methods.REPORT_BUNDLE, request.SerializeToString(), ReportResponse.FromString, credential)

    async def _call(
        self, path: str, request: bytes, decode: Callable[[bytes], _Answer], credential: Credential
    ) -> _Answer:
        match credential:
            case TokenCredential(token):
                address, identity = self.address, None
                metadata = _metadata(token, self.cluster)
            case CertificateCredential() as identity:
                address = self._renewal_address()
                token, metadata = "", ()
        credentials = _credentials(self._roots_pem(), identity)
        require(FILES_FOR_A_CALL, _CALLING)
        try:
            async with grpc.aio.secure_channel(address, credentials, _options(self.server_name)) as channel:
                call: grpc.aio.UnaryUnaryMultiCallable[bytes, _Answer]
                call = channel.unary_unary(path, response_deserializer=decode)
                return await call(request, metadata=metadata, timeout=self.deadline_seconds)
        except grpc.aio.AioRpcError as error:
            # Not chained: the error's repr holds the call's metadata of both directions.
            raise _translate(error.code(), error.details(), (address, self.server_name), token, identity) from None

    def _roots_pem(self) -> bytes:
        if not self.roots.current:
            raise MachineError(
                f"there are no roots to check the CA by: {self.roots.lacking}",
                todo="put the CA's root certificate there, or name another file with --ca-roots: it is taken at once",
            )
        return pem_of(self.roots.current)

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
    """Ask once and wait, for callers without an event loop. Raises as `CaClient.sign` does.

    Ctrl-C ends the call. In its own thread alone: one that comes while gRPC begins a call would never let it end.
    """
    request = IstioCertificateRequest(csr=csr_pem, validity_duration=ttl_seconds)
    credentials, metadata = _credentials(endpoint.roots_pem), _metadata(token, cluster)

    def ask(given_up: threading.Event) -> list[str]:
        with grpc.secure_channel(endpoint.address, credentials, _options(endpoint.server_name)) as channel:
            create = channel.unary_unary(methods.CREATE_CERTIFICATE, _encode, _decode)
            call = create.future(request, metadata=metadata, timeout=deadline_seconds)
            while not call.done() and not given_up.is_set():
                with contextlib.suppress(grpc.FutureTimeoutError):
                    call.exception(_LOOK_SECONDS)
            if not call.done() or call.exception() is not None:
                call.cancel()
                raise _translate(call.code(), call.details(), (endpoint.address, endpoint.server_name), token)
            return list(call.result().cert_chain)

    return aside(ask)


def _metadata(token: str, cluster: str) -> tuple[tuple[str, str], ...]:
    """Build the headers as istio-agent sends them. Checked here, for gRPC's own error would show the token."""
    for name, value in (("token", token), ("cluster's name", cluster)):
        if not value.isascii() or not value.isprintable():
            raise UsageError(f"the {name} holds a character that no header may hold", wanted="printable ASCII")
    bearer = (("authorization", f"Bearer {token}"),) if token else ()  # `verify` asks without one, to be refused
    return (*bearer, ("clusterid", cluster)) if cluster else bearer


def _credentials(roots_pem: bytes, identity: CertificateCredential | None = None) -> grpc.ChannelCredentials:
    if not roots_pem.strip():  # gRPC would take the machine's own roots in place of none
        raise MachineError("there are no roots to check the CA by", todo="see the file given with --ca-roots")
    if identity is None:
        return grpc.ssl_channel_credentials(roots_pem)
    return grpc.ssl_channel_credentials(roots_pem, identity.key_pem, identity.chain_pem)


def _options(server_name: str) -> list[tuple[str, int | str]]:
    return [
        ("grpc.ssl_target_name_override", server_name),
        ("grpc.default_authority", server_name),
        ("grpc.max_receive_message_length", MAX_ANSWER_BYTES),
        ("grpc.use_local_subchannel_pool", 1),  # else a dead connection's backoff would be shared with the next call
        ("grpc.enable_http_proxy", 0),  # a token goes to the CA and nowhere else
        ("grpc.enable_retries", 0),  # the rotation core decides when to try again
    ]


def _translate(
    code: grpc.StatusCode,
    details: str | None,
    ca: tuple[str, str],
    token: str,
    identity: CertificateCredential | None = None,
) -> MeshpkiError:
    """Make an error of a status. `ca`: its address, and the name that its certificate has to carry."""
    status, (address, server_name) = code.name, ca
    detail = _clean(details or "", token)
    if code is grpc.StatusCode.UNAVAILABLE and _OUT_OF_FILES in detail:
        return OpenFilesError(_CALLING)
    said = _REASON.match(detail)
    reason = said.group(1) if said else ""
    if code in _REFUSALS:
        return CaRefusedError(
            status,
            reason or status.lower(),
            f"the CA at {address} refused: {status}: {detail}",
            todo="see the CA's log and audit record; `meshpki token inspect` explains a token offline",
        )
    todo = _advice(code, detail, address, server_name)
    if code is grpc.StatusCode.UNAVAILABLE and (reason or identity is not None):
        todo = _ADVICE_WITH_REASON if reason else _ADVICE_FOR_CERTIFICATES
    return CaUnavailableError(
        status, f"no certificate from the CA at {address}: {status}: {detail}", todo=todo, reason=reason
    )


_ADVICE_FOR_CERTIFICATES: Final = (
    "check that the CA is running and renews by certificate there; one that it does not take it refuses in the"
    " handshake, without a word. A new token helps in any case"
)


_ADVICE_WITH_REASON: Final = "the CA is there and says why it cannot answer now: wait a moment; its log says more"


def _advice(code: grpc.StatusCode, detail: str, address: str, server_name: str) -> str:
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in detail.lower() for sign in _CLOCK_SIGNS):
        return "compare this machine's clock with the CA's: by ours the CA's own certificate is not valid now"
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in detail.lower() for sign in _TLS_SIGNS):
        return f"check that the roots given are the CA's and that its certificate names {server_name}"
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in detail.lower() for sign in _NAME_SIGNS):
        return f"check the name in {address}, and this machine's name service: it found no address for it"
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return "check that the CA is running and that this machine can reach it"
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return "the CA is shedding load: nothing to do here, it is asked again later"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return "the CA was too slow: see its load and its audit log's disk"
        case grpc.StatusCode.UNIMPLEMENTED:
            return f"what listens on {address} is no CA: check the address"
        case _:
            return "see the CA's log"


def _clean(text: str, token: str) -> str:
    """Make a peer's words fit for a log: on one line, not endless, and without the token it may echo."""
    without = text.replace(token, "[token]") if token else text
    return redact("".join(c if c.isprintable() else " " for c in without))[:MAX_DETAIL]
