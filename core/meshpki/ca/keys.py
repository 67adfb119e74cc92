"""The kinds of key that we certify and sign with, and how their SubjectPublicKeyInfo must look to the last byte."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

if TYPE_CHECKING:
    from typing import TypeAlias

    PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
    PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

RSA_EXPONENT: Final = 65537


class KeyKind(StrEnum):
    """Named as on the command line. Nothing below 112 bits of strength, nothing that Envoy or istiod cannot use."""

    EC_P256 = "ec-p256"
    EC_P384 = "ec-p384"
    RSA_2048 = "rsa-2048"
    RSA_3072 = "rsa-3072"
    RSA_4096 = "rsa-4096"

    @property
    def is_rsa(self) -> bool:
        """Whether the key may also encipher keys: RSA may, an elliptic curve may not (RFC 8813 section 3)."""
        return self in _RSA_BITS


_CURVES: Final[dict[KeyKind, type[ec.EllipticCurve]]] = {
    KeyKind.EC_P256: ec.SECP256R1,
    KeyKind.EC_P384: ec.SECP384R1,
}
_RSA_BITS: Final = {KeyKind.RSA_2048: 2048, KeyKind.RSA_3072: 3072, KeyKind.RSA_4096: 4096}


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a canonical SubjectPublicKeyInfo of one kind begins, continues at one octet, and ends."""

    kind: KeyKind
    prefix: bytes
    suffix: bytes
    bits_at: int
    """Offset of the key's own bits, after the BIT STRING's octet that counts unused ones."""
    top_bit: int
    """Offset of an octet whose highest bit is set (the modulus has its full size), or 0 where there is none."""


def _ec_shape(kind: KeyKind, prefix: str) -> _Shape:
    head = bytes.fromhex(prefix)
    return _Shape(kind, head, b"", bits_at=len(head) - 1, top_bit=0)


def _rsa_shape(kind: KeyKind) -> _Shape:
    size = _RSA_BITS[kind] // 8
    key = b"\x02\x82" + (size + 1).to_bytes(2, "big") + b"\x00"
    key = b"\x30\x82" + (size + 10).to_bytes(2, "big") + key
    key = b"\x03\x82" + (size + 15).to_bytes(2, "big") + b"\x00" + key
    prefix = b"\x30\x82" + (size + 34).to_bytes(2, "big") + bytes.fromhex("300d06092a864886f70d0101010500") + key
    return _Shape(kind, prefix, bytes.fromhex("0203010001"), bits_at=24, top_bit=len(prefix))


# RFC 5480 (named curve, uncompressed point) and RFC 3279 (rsaEncryption with NULL): for each kind there is one length
# of SubjectPublicKeyInfo, so the length finds the shape, and anything that is not written just so is not allowed.
_SHAPES: Final = {
    91: _ec_shape(KeyKind.EC_P256, "3059301306072a8648ce3d020106082a8648ce3d03010703420004"),
    120: _ec_shape(KeyKind.EC_P384, "3076301006072a8648ce3d020106052b8104002203620004"),
    294: _rsa_shape(KeyKind.RSA_2048),
    422: _rsa_shape(KeyKind.RSA_3072),
    550: _rsa_shape(KeyKind.RSA_4096),
}


_BITS_AT: Final = {shape.kind: shape.bits_at for shape in _SHAPES.values()}


def key_bits(spki: bytes, kind: KeyKind) -> bytes:
    """The content of the BIT STRING of a SubjectPublicKeyInfo of that kind, in canonical form."""
    return spki[_BITS_AT[kind] :]


def kind_of_spki(spki: bytes) -> KeyKind | None:
    """Tell the kind of a DER SubjectPublicKeyInfo by its bytes alone; None for a kind or a form not allowed.

    Says nothing about whether an elliptic point lies on its curve: loading the key does.
    """
    shape = _SHAPES.get(len(spki))
    if shape is None or not spki.startswith(shape.prefix) or not spki.endswith(shape.suffix):
        return None
    if shape.top_bit and spki[shape.top_bit] < 0x80:
        return None
    return shape.kind


def spki_of(key: PublicKey) -> bytes:
    """The DER SubjectPublicKeyInfo in its canonical form."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def generate(kind: KeyKind) -> PrivateKey:
    """Make a private key. Takes 20 us for an elliptic curve, and up to some seconds for RSA."""
    if kind in _CURVES:
        return ec.generate_private_key(_CURVES[kind]())
    return rsa.generate_private_key(RSA_EXPONENT, _RSA_BITS[kind])


def sample_public_key(kind: KeyKind) -> PublicKey:
    """Return a public key of that kind to rehearse with: well-formed, always the same, costs no search for primes."""
    if kind in _CURVES:
        return ec.derive_private_key(1, _CURVES[kind]()).public_key()
    return rsa.RSAPublicNumbers(RSA_EXPONENT, 2 ** (_RSA_BITS[kind] - 1) + 1).public_key()


def digest_for(key: PrivateKey | PublicKey) -> hashes.SHA256 | hashes.SHA384:
    """The hash that goes with a signing key: SHA-384 for P-384, else SHA-256."""
    wide = isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey) and key.curve.name == "secp384r1"
    return hashes.SHA384() if wide else hashes.SHA256()


def private_pem(key: PrivateKey) -> bytes:
    """Write a private key as unencrypted PKCS #8 in PEM: to be written to a file of mode 0600, and nowhere else."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
