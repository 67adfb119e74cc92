"""The cluster's own authority: serving and client certificates that every age and every client takes."""

from __future__ import annotations

import datetime
import functools
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

HOUR = datetime.timedelta(hours=1)
DAY = datetime.timedelta(days=1)
SERVING_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, in files."""

    certificate: Path
    key: Path


class ClusterAuthority:
    """A root in `directory`/ca.crt that signs leaves for servers and users."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.ca_file = directory / "ca.crt"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
        root = self._builder(self._name, self._key.public_key())
        root = root.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        root = root.add_extension(_key_usage(signs_certificates=True), critical=True)
        self.ca_file.write_bytes(root.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        self.serving = self._leaf("apiserver", "kube-apiserver", ExtendedKeyUsageOID.SERVER_AUTH)

    def client(self, user: str, *groups: str) -> KeyPair:
        """A client certificate: the user is its CN, each group an O. The same user again gets the same files."""
        return self._clients(user, groups)

    @functools.cache  # noqa: B019 - as long-lived as the authority is meant to be: one test run
    def _clients(self, user: str, groups: tuple[str, ...]) -> KeyPair:
        number = len(list(self.directory.glob("client-*.crt")))
        return self._leaf(f"client-{number}", user, ExtendedKeyUsageOID.CLIENT_AUTH, groups)

    def expired(self, certificate: bytes) -> bytes:
        """The same certificate (PEM), but good until an hour ago."""
        like = x509.load_pem_x509_certificate(certificate)
        builder = x509.CertificateBuilder(like.issuer, like.subject, like.public_key(), like.serial_number)
        builder = builder.not_valid_before(like.not_valid_before_utc)
        builder = builder.not_valid_after(datetime.datetime.now(datetime.UTC) - HOUR)
        for extension in like.extensions:
            builder = builder.add_extension(extension.value, extension.critical)
        return builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM)

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )

    def _leaf(
        self, file_name: str, common_name: str, purpose: x509.ObjectIdentifier, groups: tuple[str, ...] = ()
    ) -> KeyPair:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
        subject.append(x509.NameAttribute(NameOID.COMMON_NAME, common_name))
        builder = self._builder(x509.Name(subject), key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_key_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if purpose == ExtendedKeyUsageOID.SERVER_AUTH:
            names: list[x509.GeneralName] = [x509.DNSName(name) for name in SERVING_NAMES]
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        pair = KeyPair(self.directory / f"{file_name}.crt", self.directory / f"{file_name}.key")
        pair.certificate.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))
        pair.key.touch(mode=0o600)
        pair.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return pair


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
