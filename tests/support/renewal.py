"""A CA with renewal by certificate switched on, and clients that show certificates to it."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca import attestation, der, pem
from meshpki.ca.config import ProfileSettings, RenewalSettings
from meshpki.ca.config_values import HostPort, Seconds
from meshpki.ca.keys import KeyKind, digest_for, generate, private_pem
from meshpki.wire.methods import CREATE_CERTIFICATE
from support import ca_server
from support.authority import make_csr

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from meshpki.ca.keys import PrivateKey
    from support.authority import TestAuthority
    from support.ca_server import RunningCa

HOUR = Seconds(3600)
HOURS = Seconds(6 * 3600)


@dataclass(frozen=True)
class Held:
    """A certificate as its workload holds it."""

    chain: tuple[str, ...]
    """As the CA sent it: leaf first, root last."""
    key: PrivateKey

    @property
    def presented(self) -> bytes:
        """What a TLS client shows: all but the root."""
        return "".join(self.chain[:-1]).encode()


class CertificateClient(ca_server.CaClient):
    """Speaks to the renewal listener with a certificate of its own, or with none."""

    def __init__(self, address: str, roots_pem: bytes, chain: bytes | None, key: PrivateKey | None) -> None:
        super().__init__(address, roots_pem)
        self._certificate = (private_pem(key) if key is not None else None, chain)

    def use_key(self, key_pem: bytes) -> None:
        """A key that comes as PEM."""
        self._certificate = (key_pem, self._certificate[1])

    def request_nothing(self) -> bytes:
        """A call that is over before anybody reads its request, if it may not be made."""
        return self.raw(CREATE_CERTIFICATE, b"")

    def new_channel(self, *options: tuple[str, int | str]) -> grpc.Channel:
        """A connection of its own."""
        key, chain = self._certificate
        return grpc.secure_channel(
            self.address,
            grpc.ssl_channel_credentials(self.roots_pem, key, chain),
            options=[
                ("grpc.ssl_target_name_override", ca_server.SERVER_NAME),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.enable_retries", 0),
                *options,
            ],
        )


@contextlib.contextmanager
def running(
    directory: Path, *, ttl: int = HOUR, without_token: int = HOURS, **changes: Any
) -> Iterator[RunningCa]:  # Any: what ca_server.running takes
    """A server as `ca_server.running` gives it, with certificates of up to `ttl` seconds, and renewal switched on."""
    settings = {
        "profile": ProfileSettings(default_ttl=Seconds(ttl), max_ttl=Seconds(ttl)),
        "renewal": RenewalSettings(HostPort("127.0.0.1", 0), Seconds(without_token)),
        **changes,
    }
    with ca_server.running(directory, **settings) as ca:
        yield ca


def obtain(ca: RunningCa, *, now: float | None = None, ttl: int = 0, **claims: Any) -> Held:  # Any: of a token
    """A certificate against a token; `now` is when the token was made."""
    key = generate(KeyKind.EC_P256)
    token = ca.maker.token(now=time.time() if now is None else now, **claims)
    return Held(tuple(ca.client.sign(token, make_csr(key), ttl=ttl)), key)


@contextlib.contextmanager
def client_of(ca: RunningCa, held: Held) -> Iterator[CertificateClient]:
    """A client of the renewal listener that shows what it holds."""
    client = CertificateClient(ca.server.renewal_address, ca.authority.root_pem, held.presented, held.key)
    try:
        yield client
    finally:
        client.close()


def renew(ca: RunningCa, held: Held, *, ttl: int = 0) -> Held:
    """A new certificate for a new key, against the one held."""
    key = generate(KeyKind.EC_P256)
    with client_of(ca, held) as client:
        return Held(tuple(client.request((), csr=make_csr(key), ttl=ttl)), key)


@dataclass(frozen=True)
class LeafShape:
    """A leaf that a CA of ours would never make, but that its key could sign. Times are seconds from now."""

    uris: tuple[str, ...] = ("spiffe://mesh.local/ns/default/sa/web",)
    dns: tuple[str, ...] = ()
    begins: float = -60
    ends: float = 600
    ca: bool | None = False
    """None: no basic constraints."""
    cert_sign: bool | None = False
    """None: no key usage."""
    digital_signature: bool = True
    purposes: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
    attested: bytes | None = b""
    """DER of the time of attestation; empty: of now; None: no such extension."""
    serial: int = 0xC0FFEE


def forge(issuing: Authority, shape: LeafShape, *, now: float | None = None, key: PrivateKey | None = None) -> Held:
    """A leaf of that shape under that authority, with its chain."""
    now = time.time() if now is None else now
    own = key or generate(KeyKind.EC_P256)
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(uri) for uri in shape.uris] + [
        x509.DNSName(name) for name in shape.dns
    ]
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuing.certificate.subject)
        .public_key(own.public_key())
        .serial_number(shape.serial)
        .not_valid_before(datetime.fromtimestamp(int(now + shape.begins), UTC))
        .not_valid_after(datetime.fromtimestamp(int(now + shape.ends), UTC))
    )
    for extension, critical in _extensions(shape, names, int(now)):
        builder = builder.add_extension(extension, critical=critical)
    leaf = builder.sign(issuing.key, digest_for(issuing.key))
    return Held((pem.encode(leaf.public_bytes(Encoding.DER)), *issuing.chain), own)


def _extensions(shape: LeafShape, names: list[x509.GeneralName], now: int) -> Iterator[tuple[x509.ExtensionType, bool]]:
    if shape.ca is not None:
        yield x509.BasicConstraints(ca=shape.ca, path_length=None), True
    if shape.cert_sign is not None:
        yield (
            x509.KeyUsage(
                digital_signature=shape.digital_signature,
                content_commitment=not shape.digital_signature,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=shape.cert_sign,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
    if shape.purposes:
        yield x509.ExtendedKeyUsage(shape.purposes), False
    if names:
        yield x509.SubjectAlternativeName(names), True
    if shape.attested is not None:
        value = shape.attested or der.generalized_time(now)
        yield x509.UnrecognizedExtension(x509.ObjectIdentifier(attestation.OID), value), False


@dataclass(frozen=True)
class Authority:
    """A certificate that signs leaves, its key, and the chain from it to the root."""

    certificate: x509.Certificate
    key: PrivateKey
    chain: tuple[str, ...]


def issuing_of(authority: TestAuthority) -> Authority:
    """What the CA itself issues with."""
    return Authority(
        authority.hierarchy.issuer.certificate, authority.hierarchy.issuer.key, authority.issuer.chain_elements
    )


def sibling_of(authority: TestAuthority) -> Authority:
    """Another intermediate, under the same root and with the same name: TLS believes what it signs."""
    root, own = authority.hierarchy.root, authority.hierarchy.issuer.certificate
    key = generate(KeyKind.EC_P256)
    builder = (
        x509.CertificateBuilder()
        .subject_name(own.subject)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(own.not_valid_before_utc)
        .not_valid_after(own.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(own.extensions.get_extension_for_class(x509.KeyUsage).value, critical=True)
    )
    certificate = builder.sign(root.key, digest_for(root.key))
    middle = pem.encode(certificate.public_bytes(Encoding.DER))
    return Authority(certificate, key, (middle, authority.root_pem.decode()))
