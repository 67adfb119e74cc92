"""A throw-away authority in files: two Envoys can meet without a CA and an agent of ours."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from meshpki_demo.bootstrap import FileSecrets

PEM = serialization.Encoding.PEM
HOUR = datetime.timedelta(hours=1)


@dataclass(slots=True)
class StaticAuthority:
    """A root that signs leaves directly, all of it in files."""

    directory: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def roots(self) -> Path:
        return self.directory / "root.pem"

    def __post_init__(self) -> None:
        self.directory.mkdir()
        self.roots.write_bytes(self._certificate(self.key, None).public_bytes(PEM))

    def _certificate(self, key: ec.EllipticCurvePrivateKey, uri: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        root = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "static root")])
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]) if uri else root)
            .issuer_name(root)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - HOUR)
            .not_valid_after(now + HOUR)
            .add_extension(x509.BasicConstraints(ca=not uri, path_length=None), critical=True)
        )
        if uri:
            names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
            builder = builder.add_extension(names, critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def secrets(self, uri: str) -> FileSecrets:
        key = ec.generate_private_key(ec.SECP256R1())
        name = uri.rpartition("/")[2]
        chain, private = self.directory / f"{name}.pem", self.directory / f"{name}-key.pem"
        chain.write_bytes(self._certificate(key, uri).public_bytes(PEM))
        private.write_bytes(key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        return FileSecrets(chain, private, self.roots)
