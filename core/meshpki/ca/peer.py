"""A client certificate as a credential: what it has to be for its holder to be a workload of ours (default deny).

TLS has proven that the peer holds the key, and that some certificate chain leads to a root of ours. Nothing of that
chain is relied on here: the leaf itself has to be signed by the key that we issue with.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca import pem
from meshpki.ca.attestation import read_attested_at
from meshpki.ca.reasons import PeerReason, PeerRefusedError
from meshpki.errors import InvalidValueError
from meshpki.identity import ServiceAccountRef, SpiffeId

if TYPE_CHECKING:
    from meshpki.identity import TrustDomain

MAX_CERTIFICATE_BYTES: Final = 16 * 1024
_Extension = TypeVar("_Extension", bound=x509.ExtensionType)


@dataclass(frozen=True, slots=True)
class Peer:
    """A workload that showed a certificate of ours, and the key to it. Times are epoch seconds."""

    service_account: ServiceAccountRef
    serial: int
    not_after: int
    attested_at: int | None
    """When a token last proved this identity; None in a certificate from before renewal was switched on."""


def check_peer(text: bytes, issuing: x509.Certificate, trust_domain: TrustDomain, now: float) -> Peer:
    """Say whom a client certificate (PEM) speaks for. Raises PeerRefusedError, and nothing else whatever the bytes.

    `issuing` is the certificate that leaves are issued under, `now` our own clock: a connection may outlive the
    certificate that opened it.
    """
    try:
        return _check(_parse(text), issuing, trust_domain, int(now))
    except PeerRefusedError:
        raise
    except BaseException as error:
        # A panic in the parser's Rust derives from BaseException. It is the sender's doing, and must not end a thread.
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":
            raise _refused(
                PeerReason.MALFORMED, f"a client certificate that the parser fails on ({type(error).__name__})"
            ) from None
        raise


def _refused(reason: PeerReason, seen: str, wanted: str = "") -> PeerRefusedError:
    return PeerRefusedError(reason, seen, wanted=wanted, todo="ask with a token")


def _parse(text: bytes) -> x509.Certificate:
    if not text:
        raise _refused(PeerReason.MISSING, "no client certificate", "the workload's own")
    if len(text) > MAX_CERTIFICATE_BYTES:
        raise _refused(PeerReason.MALFORMED, f"a client certificate of {len(text)} bytes")
    return x509.load_der_x509_certificate(pem.decode_one(text, pem.CERTIFICATE))


def _check(leaf: x509.Certificate, issuing: x509.Certificate, trust_domain: TrustDomain, now: int) -> Peer:
    _check_signature(leaf, issuing)
    _check_rights(leaf.extensions)
    not_after = _check_times(leaf, now)
    return Peer(
        service_account=_account(leaf.extensions, trust_domain),
        serial=leaf.serial_number,
        not_after=not_after,
        attested_at=read_attested_at(leaf.extensions),
    )


def _check_signature(leaf: x509.Certificate, issuing: x509.Certificate) -> None:
    """First of all: what somebody else signed is not worth reading."""
    try:
        leaf.verify_directly_issued_by(issuing)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise _refused(
            PeerReason.UNKNOWN_ISSUER,
            "a client certificate that is not signed by the certificate we issue under",
            "one that this CA issued, under its present issuing certificate",
        ) from error


def _check_rights(extensions: x509.Extensions) -> None:
    """RFC 5280 sections 4.2.1.3, 4.2.1.9 and 4.2.1.12, X509-SVID sections 4.1 to 4.4: a leaf, for TLS clients.

    All three extensions have to be there, as in every leaf of ours: what is left out would allow everything.
    """
    constraints = _find(extensions, x509.BasicConstraints)
    usage = _find(extensions, x509.KeyUsage)
    if constraints is None or constraints.ca or usage is None or usage.key_cert_sign or not usage.digital_signature:
        raise _refused(PeerReason.NOT_A_LEAF, "a client certificate that may sign certificates", "a workload's leaf")
    purposes = _find(extensions, x509.ExtendedKeyUsage)
    if purposes is None or ExtendedKeyUsageOID.CLIENT_AUTH not in purposes:
        raise _refused(PeerReason.NO_CLIENT_AUTH, "a certificate that is not for TLS clients", "a workload's leaf")


def _find(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None


def _check_times(leaf: x509.Certificate, now: int) -> int:
    starts, ends = int(leaf.not_valid_before_utc.timestamp()), int(leaf.not_valid_after_utc.timestamp())
    if now > ends:
        raise _refused(PeerReason.EXPIRED, f"a client certificate that expired {now - ends} s ago", "a valid one")
    if now < starts:
        raise _refused(PeerReason.NOT_YET_VALID, f"a client certificate that is valid in {starts - now} s")
    return ends


def _account(extensions: x509.Extensions, trust_domain: TrustDomain) -> ServiceAccountRef:
    names = list(_find(extensions, x509.SubjectAlternativeName) or ())
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise _refused(PeerReason.NOT_AN_SVID, f"a client certificate with {len(names)} names", "one SPIFFE ID")
    try:
        spiffe_id = SpiffeId.parse(names[0].value)
    except InvalidValueError as error:
        raise _refused(PeerReason.NOT_AN_SVID, "a client certificate whose URI is no SPIFFE ID") from error
    if spiffe_id.trust_domain != trust_domain:
        raise _refused(
            PeerReason.OTHER_TRUST_DOMAIN,
            f"a client certificate of trust domain {spiffe_id.trust_domain}",
            f"one of {trust_domain}",
        )
    try:
        _, namespace, _, name = spiffe_id.segments
        account = ServiceAccountRef(namespace, name)
        if SpiffeId.for_service_account(trust_domain, account) == spiffe_id:
            return account
    except (ValueError, InvalidValueError):
        pass
    raise _refused(PeerReason.NOT_A_WORKLOAD, f"a client certificate of {spiffe_id}", "/ns/<namespace>/sa/<name>")
