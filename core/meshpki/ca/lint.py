"""The second opinion before anything is signed: the library parses what the template wrote, and we compare."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca import der
from meshpki.ca.attestation import library_extension
from meshpki.ca.template import Leaf, Purpose
from meshpki.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator

_NO_SIGNATURE: Final = der.bit_string(bytes(8))
LONGEST_SERIAL_BITS: Final = 159
"""A serial number has at most 20 octets, and its sign takes one bit (RFC 5280 section 4.1.2.2)."""
MOST_OUTLINES: Final = 4_096


class Linter:
    """Examines leaves of one issuer: each shape of leaf once in full, each leaf against a shape so examined.

    Two leaves have one outline when they differ in nothing but the values of the holes: the same kind of key, the
    same lengths, and so the same bytes everywhere else. The first of an outline is parsed and compared part by part,
    which takes about 40 us; for the others it is enough that the bytes around their holes are those of the first, 2 us.
    Used from several threads: at worst one outline is examined twice.
    """

    __slots__ = ("_algorithm", "_authority_key_id", "_issuer_name", "_outlines")

    def __init__(self, issuer_name: x509.Name, authority_key_id: bytes, algorithm: bytes) -> None:
        """Take what the leaves have to say of their issuer; `algorithm` is a DER AlgorithmIdentifier."""
        self._issuer_name = issuer_name
        self._authority_key_id = authority_key_id
        self._algorithm = algorithm
        self._outlines: set[tuple[bytes, ...]] = set()

    def lint(self, tbs: bytes, holes: tuple[bytes, ...], leaf: Leaf) -> None:
        """Raise IntegrityError unless `tbs` is the certificate of `leaf` to the last byte.

        `holes` are `leaf.holes()`. A hole's value that happens to occur earlier makes another outline, which costs a
        full examination and no certainty.
        """
        if not 0 < leaf.serial < 1 << LONGEST_SERIAL_BITS:
            raise _broken("has a serial number out of range")
        if leaf.lifetime.not_after < leaf.lifetime.not_before:
            raise _broken("ends before it begins")
        rest = tbs
        outline = []
        for hole in holes:
            before, found, rest = rest.partition(hole)
            if not found:
                raise _broken("lacks a part")
            outline.append(before)
        outline.append(rest)
        key = tuple(outline)
        if key not in self._outlines:
            self._examine(tbs, leaf)
            if len(self._outlines) >= MOST_OUTLINES:
                self._outlines.clear()
            self._outlines.add(key)

    def _examine(self, tbs: bytes, leaf: Leaf) -> None:
        """Parse a twin that carries no signature, and compare each part in the library's words."""
        try:
            twin = x509.load_der_x509_certificate(der.element(der.SEQUENCE, tbs + self._algorithm + _NO_SIGNATURE))
            for part, right in self._verdicts(twin, leaf):
                if not right:
                    raise _broken(f"has a wrong {part}")
        except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
            raise _broken(f"cannot be parsed ({error})") from error

    def _verdicts(self, twin: x509.Certificate, leaf: Leaf) -> Iterator[tuple[str, bool]]:
        lifetime = leaf.lifetime
        key = twin.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        yield "version", twin.version is x509.Version.v3
        yield "serial number", twin.serial_number == leaf.serial
        yield "issuer", twin.issuer == self._issuer_name
        yield "subject", not twin.subject.rdns
        yield "start", twin.not_valid_before_utc == datetime.fromtimestamp(lifetime.not_before, UTC)
        yield "end", twin.not_valid_after_utc == datetime.fromtimestamp(lifetime.not_after, UTC)
        yield "public key", key == leaf.key.spki
        yield "set of extensions", list(twin.extensions) == list(self._extensions(leaf, leaf.holes()[4]))

    def _extensions(self, leaf: Leaf, key_id: bytes) -> Iterator[x509.Extension[x509.ExtensionType]]:
        """State in the library's words what a leaf carries, in order."""
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        for value, critical in (
            (key_usage(encipherment=leaf.key.kind.is_rsa), True),
            (x509.ExtendedKeyUsage(usages if leaf.purpose is Purpose.WORKLOAD else usages[:1]), False),
            (x509.BasicConstraints(ca=False, path_length=None), True),
            (x509.SubjectKeyIdentifier(key_id), False),
            (x509.AuthorityKeyIdentifier(self._authority_key_id, None, None), False),
            (x509.SubjectAlternativeName(general_names(leaf)), True),
        ):
            yield x509.Extension(value.oid, critical, value)
        if leaf.attested_at is not None:
            attested = library_extension(leaf.attested_at)
            yield x509.Extension(attested.oid, critical=False, value=attested)


def key_usage(*, encipherment: bool) -> x509.KeyUsage:
    """The key usage of a leaf."""
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def general_names(leaf: Leaf) -> list[x509.GeneralName]:
    """The names of a leaf in the library's words."""
    if leaf.spiffe_id:
        return [x509.UniformResourceIdentifier(leaf.spiffe_id)]
    return [x509.DNSName(name) if isinstance(name, str) else x509.IPAddress(name) for name in leaf.server_names]


def _broken(how: str) -> IntegrityError:
    return IntegrityError(
        f"a prepared certificate {how}; it was not signed",
        wanted="the certificate that the profile describes",
        todo="report this: template and library disagree",
    )
