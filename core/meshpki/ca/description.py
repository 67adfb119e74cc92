"""What `meshpki ca show` says of an authority: who, which key, which digest, how long yet, and what to worry about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from meshpki.ca.issuer import key_of, subject_key_identifier
from meshpki.errors import InvalidValueError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from cryptography import x509

    from meshpki.ca.keys import KeyKind
    from meshpki.identity import TrustDomain

WARN_BELOW: Final = 0.2
"""Share of a certificate's life: istiod renews its own root in the last fifth."""
_DAY: Final = 86_400


@dataclass(frozen=True, slots=True)
class CertificateDescription:
    """One CA certificate. Times are epoch seconds; identifiers and digests lower-case hexadecimal."""

    role: str
    """`issuer`, `intermediate` or `root`."""
    subject: str
    """As RFC 4514 writes it."""
    key_kind: KeyKind | None
    """None for a key of a kind that only a foreign root can have."""
    key_id: str
    fingerprint: str
    """SHA-256 of the DER."""
    serial: int
    not_before: int
    not_after: int
    remaining_seconds: int
    """Negative once it has expired."""
    warning: str = ""


@dataclass(frozen=True, slots=True)
class MaterialDescription:
    """An authority in a directory: its certificates, the issuing one first, the root last."""

    directory: Path
    trust_domain: TrustDomain | None
    """None when the issuing certificate names none, as an intermediate of somebody else's authority may."""
    certificates: tuple[CertificateDescription, ...]
    root_key_here: bool
    """Whether the root's key lies beside. It is needed only to renew the issuing certificate."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence for each certificate that has less than a fifth of its life left, or none."""
        return tuple(each.warning for each in self.certificates if each.warning)


def describe_chain(chain: Sequence[x509.Certificate], now: float) -> tuple[CertificateDescription, ...]:
    """Describe a chain, the issuing certificate first and the root last, as of `now` (epoch seconds)."""
    roles = ["issuer", *["intermediate"] * (len(chain) - 2), "root"][-len(chain) :]
    return tuple(describe_certificate(each, role, now) for each, role in zip(chain, roles, strict=True))


def describe_certificate(certificate: x509.Certificate, role: str, now: float) -> CertificateDescription:
    """Describe one CA certificate as of `now` (epoch seconds)."""
    starts = int(certificate.not_valid_before_utc.timestamp())
    ends = int(certificate.not_valid_after_utc.timestamp())
    try:
        _, kind = key_of(certificate)
    except InvalidValueError:
        kind = None
    return CertificateDescription(
        role=role,
        subject=certificate.subject.rfc4514_string({NameOID.SERIAL_NUMBER: "serialNumber"}),
        key_kind=kind,
        key_id=subject_key_identifier(certificate).hex(),
        fingerprint=certificate.fingerprint(hashes.SHA256()).hex(),
        serial=certificate.serial_number,
        not_before=starts,
        not_after=ends,
        remaining_seconds=ends - int(now),
        warning=_warning(role, starts, ends, int(now)),
    )


def _warning(role: str, starts: int, ends: int, now: int) -> str:
    if now < starts:
        return f"the {role} certificate is not valid for another {_span(starts - now)}: compare the clocks"
    if now >= ends:
        return f"the {role} certificate expired {_span(now - ends)} ago: nothing can be issued under it"
    if ends - now < WARN_BELOW * (ends - starts):
        return f"the {role} certificate expires in {_span(ends - now)}: renew it"
    return ""


def _span(seconds: int) -> str:
    for size, word in ((_DAY, "day"), (3_600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            count = seconds // size
            return f"{count} {word}{'s' if count > 1 else ''}"
    return "0 seconds"
