"""A to-be-signed certificate with holes: all that does not change from leaf to leaf, encoded once (RFC 5280)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from meshpki.ca import attestation, der
from meshpki.ca.keys import KeyKind, key_bits
from meshpki.value import value

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv6Address

    from meshpki.ca.csr import CsrKey
    from meshpki.ca.lifetime import Lifetime

_KEY_USAGE: Final = "2.5.29.15"
_EXTENDED_KEY_USAGE: Final = "2.5.29.37"
_BASIC_CONSTRAINTS: Final = "2.5.29.19"
_SUBJECT_KEY_ID: Final = "2.5.29.14"
_AUTHORITY_KEY_ID: Final = "2.5.29.35"
_SUBJECT_ALT_NAME: Final = "2.5.29.17"
_SERVER_AUTH: Final = "1.3.6.1.5.5.7.3.1"
_CLIENT_AUTH: Final = "1.3.6.1.5.5.7.3.2"

_VERSION_3: Final = der.element(0xA0, der.integer(2))
_EMPTY_SUBJECT: Final = der.element(der.SEQUENCE, b"")
_ATTESTED_HEAD: Final = der.extension(attestation.OID, der.generalized_time(0))[: -len(der.generalized_time(0))]
_SAN_HEAD: Final = der.object_identifier(_SUBJECT_ALT_NAME) + der.BOOLEAN_TRUE
_DIGITAL_SIGNATURE: Final = bytes.fromhex("03020780")
_DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT: Final = bytes.fromhex("030205a0")
_KEY_ID_BYTES: Final = 20
_URI: Final = 0x86
_DNS: Final = 0x82
_IP: Final = 0x87
"""Tags of GeneralName (RFC 5280 section 4.2.1.6): [6], [2] and [7], implicit."""


class Purpose(Enum):
    """What a leaf is for: the extended key usages that it carries."""

    WORKLOAD = (_SERVER_AUTH, _CLIENT_AUTH)
    """An X509-SVID speaks for its workload in both directions (X509-SVID section 4.4: both or none)."""
    SERVING = (_SERVER_AUTH,)
    """The CA's own server."""


def key_identifier(bits: bytes) -> bytes:
    """The subject key identifier of RFC 7093 section 2 method 1: SHA-256 over the key's bits, leftmost 160.

    Method 1 of RFC 5280 needs SHA-1, which machines in FIPS mode refuse. `bits` is the content of the BIT STRING in
    the SubjectPublicKeyInfo (`keys.key_bits`).
    """
    return hashlib.sha256(bits).digest()[:_KEY_ID_BYTES]


@value
class Leaf:
    """A certificate that is to be, before it has bytes."""

    purpose: Purpose
    key: CsrKey
    serial: int
    lifetime: Lifetime
    spiffe_id: str = ""
    """The one URI name of a workload; empty for the CA's own server."""
    server_names: tuple[str | IPv4Address | IPv6Address, ...] = ()
    """DNS names and addresses of the CA's own server; empty for a workload."""
    attested_at: int | None = None
    """When a token last proved the identity, in epoch seconds; None where nothing is renewed by certificate."""

    def holes(self) -> tuple[bytes, ...]:
        """All that is this leaf's own, in DER, in the order of the certificate: serial number, notBefore, notAfter,
        SubjectPublicKeyInfo, key identifier (bare octets), GeneralNames, and the time of attestation if it has one.
        """
        holes = (
            der.integer(self.serial),
            der.moment(self.lifetime.not_before),
            der.moment(self.lifetime.not_after),
            self.key.spki,
            key_identifier(key_bits(self.key.spki, self.key.kind)),
            der.element(_URI, self.spiffe_id.encode("ascii")) if self.spiffe_id else self._server_names(),
        )
        return holes if self.attested_at is None else (*holes, der.generalized_time(self.attested_at))

    def _server_names(self) -> bytes:
        return b"".join(
            der.element(_DNS, name.encode("ascii")) if isinstance(name, str) else der.element(_IP, name.packed)
            for name in self.server_names
        )


@dataclass(frozen=True, slots=True)
class Template:
    """What all leaves of one issuer, one purpose and one class of key have in common, as DER."""

    algorithm_and_issuer: bytes
    extensions_before: bytes
    """keyUsage, extKeyUsage, basicConstraints, and the head of the subject key identifier."""
    extensions_after: bytes
    """The authority key identifier."""

    def fill(self, holes: tuple[bytes, ...]) -> bytes:
        """Return the DER TBSCertificate (RFC 5280 section 4.1) with what `Leaf.holes` gave in its places."""
        serial, not_before, not_after, spki, key_id, names, *attested = holes
        san = _SAN_HEAD + der.element(der.OCTET_STRING, der.element(der.SEQUENCE, names))
        extensions = self.extensions_before + key_id + self.extensions_after + der.element(der.SEQUENCE, san)
        if attested:
            extensions += _ATTESTED_HEAD + attested[0]
        return der.element(
            der.SEQUENCE,
            b"".join(
                (
                    _VERSION_3,
                    serial,
                    self.algorithm_and_issuer,
                    der.element(der.SEQUENCE, not_before + not_after),
                    _EMPTY_SUBJECT,
                    spki,
                    der.element(0xA3, der.element(der.SEQUENCE, extensions)),
                )
            ),
        )


def make_template(
    *, algorithm: bytes, issuer_name: bytes, authority_key_id: bytes, purpose: Purpose, kind: KeyKind
) -> Template:
    """Encode once what does not change. `algorithm` and `issuer_name` are DER; the key identifier is raw octets.

    An elliptic key signs and does not encipher keys (RFC 8813 section 3), an RSA key may be asked for both. The SAN
    is critical because the subject is empty (RFC 5280 section 4.2.1.6).
    """
    usage = _DIGITAL_SIGNATURE_AND_KEY_ENCIPHERMENT if kind.is_rsa else _DIGITAL_SIGNATURE
    hole = bytes(_KEY_ID_BYTES)
    subject_key_id = der.extension(_SUBJECT_KEY_ID, der.element(der.OCTET_STRING, hole))
    authority = der.element(der.SEQUENCE, der.element(0x80, authority_key_id))
    return Template(
        algorithm_and_issuer=algorithm + issuer_name,
        extensions_before=der.extension(_KEY_USAGE, usage, critical=True)
        + der.extension(_EXTENDED_KEY_USAGE, _purposes(purpose.value))
        + der.extension(_BASIC_CONSTRAINTS, der.element(der.SEQUENCE, b""), critical=True)
        + subject_key_id[: -len(hole)],
        extensions_after=der.extension(_AUTHORITY_KEY_ID, authority),
    )


def _purposes(oids: Sequence[str]) -> bytes:
    return der.element(der.SEQUENCE, b"".join(der.object_identifier(oid) for oid in oids))
