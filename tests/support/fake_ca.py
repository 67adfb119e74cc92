"""A CA of a few lines for the agent's tests: it really signs, and misbehaves on request.

It shares no code with `meshpki.ca`: the agent has to get on with any CA that speaks Istio's protocol.
"""

from __future__ import annotations

import datetime
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from meshpki.wire import methods
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest, IstioCertificateResponse
from support.kept_port import kept_port, number_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPublicKeyTypes

SERVER_NAME = "ca.test"
SPIFFE_ID = "spiffe://mesh.test/ns/default/sa/web"
BACKDATE = 120


def _time(epoch: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(epoch, datetime.UTC)


def pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@dataclass(frozen=True)
class Party:
    """A certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> str:
        return pem(self.certificate)


def make_ca(name: str, parent: Party | None = None, *, now: float | None = None, ca: bool = True) -> Party:
    """A root, or an intermediate below `parent`; `ca=False` makes a fraud that must not be accepted as either."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = time.time() if now is None else now
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(parent.certificate.subject if parent else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now - 3600))
        .not_valid_after(_time(now + 365 * 86400))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(sign=ca), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    return Party(builder.sign(parent.key if parent else key, hashes.SHA256()), key)


def _usage(*, sign: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def make_leaf(
    issuer: Party,
    public_key: CertificateIssuerPublicKeyTypes,
    *,
    uris: tuple[str, ...] = (SPIFFE_ID,),
    dns: tuple[str, ...] = (),
    now: float | None = None,
    begins: float = -BACKDATE,
    ends: float = 3600,
    ca: bool = False,
) -> x509.Certificate:
    """A leaf; `begins` and `ends` are seconds from `now`."""
    now = time.time() if now is None else now
    names = [x509.UniformResourceIdentifier(uri) for uri in uris] + [x509.DNSName(name) for name in dns]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_time(now + begins))
        .not_valid_after(_time(now + ends))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(_usage(sign=ca), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.certificate.public_key()),  # type: ignore[arg-type]  # EC here
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    return builder.sign(issuer.key, hashes.SHA256())


@dataclass
class FakeAuthority:
    """Root, intermediate, and answers in Istio's shape: leaf, intermediate, root."""

    root: Party = field(default_factory=lambda: make_ca("test root"))
    now: float | None = None
    """When it issues, in epoch seconds; None: whenever it is asked."""
    issuer: Party = field(init=False)

    def __post_init__(self) -> None:
        self.issuer = make_ca("test issuer", self.root)

    @property
    def roots_pem(self) -> bytes:
        return self.root.pem.encode()

    def answer(self, csr_pem: str, *, ends: float = 3600, uri: str = SPIFFE_ID) -> list[str]:
        key = x509.load_pem_x509_csr(csr_pem.encode()).public_key()
        leaf = make_leaf(self.issuer, key, uris=(uri,), ends=ends, now=self.now)  # type: ignore[arg-type]  # a key kind that signs
        return [pem(leaf), self.issuer.pem, self.root.pem]


@dataclass(frozen=True)
class Call:
    """What one request brought."""

    csr: str
    validity_seconds: int
    headers: tuple[tuple[str, str | bytes], ...]

    def header(self, name: str) -> list[str | bytes]:
        return [value for key, value in self.headers if key == name]


class FakeCa:
    """A TLS gRPC server on a port of its own. `mode` says what it does with the next calls; every call is recorded."""

    def __init__(self, authority: FakeAuthority | None = None, *, life: float = 3600, uri: str = SPIFFE_ID) -> None:
        self.authority = authority or FakeAuthority()
        self.life = life
        self.uri = uri
        self.calls: list[Call] = []
        self.status: grpc.StatusCode | None = None
        self.message = "for the test"
        self.alter: Callable[[list[str]], list[str]] | None = None
        self.hang = threading.Event()
        self.hang.set()  # set: does not hang
        self._arrived = threading.Condition()
        self._kept = kept_port()
        self._port = number_of(self._kept)
        self._server: grpc.Server | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> Self:
        """Listen; again on the same port after `stop`."""
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        handler = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=IstioCertificateRequest.FromString,
            response_serializer=IstioCertificateResponse.SerializeToString,
        )
        service, method = methods.CREATE_CERTIFICATE.lstrip("/").split("/")
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = make_leaf(self.authority.issuer, key.public_key(), uris=(), dns=(SERVER_NAME,))
        chain = (pem(leaf) + self.authority.issuer.pem).encode()
        credentials = grpc.ssl_server_credentials([(key_pem(key), chain)])
        self._server.add_secure_port(self.address, credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        self.hang.set()
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None

    def wait_for_calls(self, count: int, seconds: float = 20) -> None:
        with self._arrived:
            assert self._arrived.wait_for(lambda: len(self.calls) >= count, seconds), f"{len(self.calls)} of {count}"

    def _create(self, request: IstioCertificateRequest, context: grpc.ServicerContext) -> IstioCertificateResponse:
        headers = tuple((item.key, item.value) for item in context.invocation_metadata())  # type: ignore[attr-defined]  # stubs say tuple
        with self._arrived:
            self.calls.append(Call(request.csr, request.validity_duration, headers))
            self._arrived.notify_all()
        self.hang.wait(30)
        if self.status is not None:
            context.abort(self.status, self.message)
        chain = self.authority.answer(request.csr, ends=self.life, uri=self.uri)
        return IstioCertificateResponse(cert_chain=self.alter(chain) if self.alter else chain)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._kept.close()
