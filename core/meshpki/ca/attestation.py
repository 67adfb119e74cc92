"""When a token last proved an identity, written into its certificate: a private extension, not critical (ADR 0009)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from cryptography import x509

from meshpki.ca import der

OID: Final = "1.2.840.113556.1.8000.2554.23421.12046.35905.19051.40467.7152840.15770491"
"""`attestedAt`, a GeneralizedTime. Out of GUID 5b7d2f0e-8c41-4a6b-9e13-6d24c8f0a37b, in the arc that Microsoft keeps
for OIDs out of GUIDs, each number below 2^24. The arc 2.25 would take the GUID as one number, and Go's crypto/x509,
in istio-agent, go-spiffe and any peer written in Go, parses no certificate with a number of more than 31 bits."""
_IDENTIFIER: Final = x509.ObjectIdentifier(OID)


def read_attested_at(extensions: x509.Extensions) -> int | None:
    """The time (epoch seconds) in a leaf's extensions, None where there is none. Raises ValueError for another form.

    The form is the one that the template writes: a GeneralizedTime to the second, in UTC (RFC 5280 section 4.1.2.5.2).
    """
    try:
        value = extensions.get_extension_for_oid(_IDENTIFIER).value.public_bytes()
    except x509.ExtensionNotFound:
        return None
    moment = datetime.strptime(value[2:].decode("ascii"), "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
    epoch = int(moment.timestamp())
    if der.generalized_time(epoch) != value:
        raise ValueError("the time of attestation is not written as a GeneralizedTime in UTC")
    return epoch


def library_extension(attested_at: int) -> x509.UnrecognizedExtension:
    """State the extension as the library knows it: for the lint and the comparison, never for what is signed."""
    return x509.UnrecognizedExtension(_IDENTIFIER, der.generalized_time(attested_at))
