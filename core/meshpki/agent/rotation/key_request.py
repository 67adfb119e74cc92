"""A fresh private key and the certificate signing request that proves we hold it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa


class KeyType(StrEnum):
    """Which key to make for every renewal."""

    EC_P256 = "ec-p256"
    RSA_2048 = "rsa-2048"


@dataclass(frozen=True, slots=True)
class KeyRequest:
    """A key that was never used before, as PKCS#8 PEM, its public half as DER, and a CSR over it as PEM."""

    csr_pem: str
    spki: bytes
    key_pem: bytes = field(repr=False)


def new_key_request(kind: KeyType) -> KeyRequest:
    """Make a key and a CSR with an empty subject: the CA takes nothing but the public key from it."""
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    match kind:
        case KeyType.EC_P256:
            key = ec.generate_private_key(ec.SECP256R1())
        case KeyType.RSA_2048:
            key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    csr = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return KeyRequest(
        csr_pem=csr.public_bytes(serialization.Encoding.PEM).decode("ascii"),
        spki=key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
