"""Whether a chain of CA certificates is one that validators will follow (RFC 5280 section 6.1, X509-SVID section 5)."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from meshpki.errors import InvalidValueError
from meshpki.identity import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.identity import TrustDomain

LONGEST_CHAIN: Final = 8


def check_chain(certificates: Sequence[x509.Certificate]) -> None:
    """Check the issuing certificate first, each signed by the next, a self-signed root last.

    Raises InvalidValueError. The time now is not looked at: it is at every issuance.
    """
    if not 1 <= len(certificates) <= LONGEST_CHAIN:
        raise InvalidValueError(f"a chain of {len(certificates)} certificates", wanted=f"1 to {LONGEST_CHAIN}")
    for below, certificate in enumerate(certificates):
        _check_authority(certificate, below)
    for certificate, parent in pairwise(certificates):
        _check_signed_by(certificate, parent, "wanted order: the issuing certificate, then each one's issuer")
    _check_signed_by(certificates[-1], certificates[-1], "the last certificate has to be the self-signed root")
    starts = max(certificate.not_valid_before_utc for certificate in certificates)
    ends = min(certificate.not_valid_after_utc for certificate in certificates)
    if ends <= starts:
        raise InvalidValueError(
            "a chain whose certificates are never valid together", wanted="lifetimes that lie within one another"
        )


def trust_domain_of(certificate: x509.Certificate) -> TrustDomain | None:
    """The trust domain of a CA certificate that is itself an SVID (X509-SVID section 2), None where it names none.

    Raises InvalidValueError for several URIs, or one that is no SPIFFE ID.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) > 1:
        raise InvalidValueError("a CA certificate with several URI names", wanted="at most one (X509-SVID section 2)")
    return SpiffeId.parse(uris[0]).trust_domain if uris else None


def _name(certificate: x509.Certificate) -> str:
    return certificate.subject.rfc4514_string()[:200] or "a certificate without subject"


def _check_authority(certificate: x509.Certificate, below: int) -> None:
    """`below` counts the CA certificates between this one and the leaf."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise InvalidValueError(
            f"{_name(certificate)}: {error}", wanted="a CA certificate with basicConstraints and keyUsage"
        ) from error
    if not constraints.ca or not usage.key_cert_sign:
        raise InvalidValueError(
            f"{_name(certificate)} may not sign certificates",
            wanted="basicConstraints CA:TRUE and keyUsage keyCertSign",
        )
    if constraints.path_length is not None and constraints.path_length < below:
        raise InvalidValueError(
            f"{_name(certificate)} allows {constraints.path_length} CA certificates below it, the chain has {below}",
            wanted=f"a pathLen of at least {below}, or none",
        )


def _check_signed_by(certificate: x509.Certificate, parent: x509.Certificate, wanted: str) -> None:
    try:
        certificate.verify_directly_issued_by(parent)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise InvalidValueError(f"{_name(certificate)} is not signed by {_name(parent)}", wanted=wanted) from error
