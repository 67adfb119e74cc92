"""The second opinion before anything is signed: the library parses what the template wrote, and we compare."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca import der
from meshpki.ca.template import Purpose
from meshpki.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.ca.keys import KeyKind
    from meshpki.ca.lifetime import Lifetime

_NO_SIGNATURE: Final = der.bit_string(bytes(8))
_NOBODY: Final = x509.Name([])
LONGEST_SERIAL_BITS: Final = 159
"""A serial number has at most 20 octets, and its sign takes one bit (RFC 5280 section 4.1.2.2)."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a leaf has to say, in the library's words."""

    serial: int
    lifetime: Lifetime
    spki: bytes
    names: Sequence[x509.GeneralName]
    constant: Sequence[x509.Extension[x509.ExtensionType]]
    """keyUsage, extKeyUsage, basicConstraints and authority key identifier (`constant_extensions`)."""


def constant_extensions(
    purpose: Purpose, kind: KeyKind, authority_key_id: bytes
) -> tuple[x509.Extension[x509.ExtensionType], ...]:
    """State in the library's words the extensions that all leaves of one template share, in their order."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    values: tuple[tuple[x509.ExtensionType, bool], ...] = (
        (
            x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=kind.is_rsa,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        ),
        (x509.ExtendedKeyUsage(usages if purpose is Purpose.WORKLOAD else usages[:1]), False),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.AuthorityKeyIdentifier(authority_key_id, None, None), False),
    )
    return tuple(x509.Extension(value.oid, critical, value) for value, critical in values)


def lint(tbs: bytes, algorithm: bytes, expected: Expected) -> None:
    """Parse a twin with a signature of zeros and compare. Raises IntegrityError: nothing of it may be signed.

    `tbs` and `algorithm` are DER. What the parse cannot tell cheaply (the issuer's name, and that the key is where it
    belongs) is settled by `self_check` for the template as a whole.
    """
    try:
        twin = x509.load_der_x509_certificate(der.element(der.SEQUENCE, tbs + algorithm + _NO_SIGNATURE))
        usage, purposes, constraints, key_id, authority, names = twin.extensions
        wrong = (
            (twin.serial_number != expected.serial and "serial number")
            or (not 0 < expected.serial < 1 << LONGEST_SERIAL_BITS and "size of the serial number")
            or (twin.not_valid_before_utc != _time(expected.lifetime.not_before) and "notBefore")
            or (twin.not_valid_after_utc != _time(expected.lifetime.not_after) and "notAfter")
            or (twin.subject != _NOBODY and "subject")
            or (expected.spki not in tbs and "public key")
            or ((usage, purposes, constraints, authority) != expected.constant and "extensions")
            or (not isinstance(key_id.value, x509.SubjectKeyIdentifier) and "subject key identifier")
            or ((not names.critical or list(names.value) != [*expected.names]) and "names")
        )
    except ValueError as error:
        raise _broken(f"cannot be parsed: {error}") from error
    if wrong:
        raise _broken(f"has a wrong {wrong}")


def _time(epoch: int) -> datetime:
    return datetime.fromtimestamp(epoch, UTC)


def _broken(how: str) -> IntegrityError:
    return IntegrityError(
        f"a prepared certificate {how}; it was not signed",
        wanted="what the profile says",
        todo="report this: the template and the library disagree",
    )
