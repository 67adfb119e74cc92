"""A new authority in memory: a self-signed root, and under it the one certificate that issues (X509-SVID section 5)."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from meshpki.ca import serials
from meshpki.ca.keys import KeyKind, digest_for, generate, key_bits, kind_of_spki, spki_of
from meshpki.ca.profile import DAY
from meshpki.ca.template import key_identifier
from meshpki.errors import InvalidValueError

if TYPE_CHECKING:
    from meshpki.ca.keys import PrivateKey
    from meshpki.identity import TrustDomain

ROOT_SECONDS: Final = 3650 * DAY
"""Ten years, as istiod's root: the change of a root touches every peer, and its key can be put away meanwhile."""
ISSUER_SECONDS: Final = 365 * DAY
"""One year: the key that is in use every second is replaced ten times while the root stays. Long enough that nobody
meets its end by surprise in a quarter (`meshpki ca show` warns from 73 days on), short enough to bound a lost key."""
BACKDATE_SECONDS: Final = 3_600
"""A new authority is valid at once on machines whose clock runs up to an hour behind."""
_COMMON_NAME_LIMIT: Final = 64


@dataclass(frozen=True, slots=True)
class Authority:
    """One CA certificate and its key."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """A root and the issuing authority below it."""

    root: Authority
    issuer: Authority


def build_hierarchy(
    trust_domain: TrustDomain,
    *,
    now: float,
    key_type: KeyKind = KeyKind.EC_P256,
    root_seconds: int = ROOT_SECONDS,
    issuer_seconds: int = ISSUER_SECONDS,
) -> Hierarchy:
    """Make both, with new keys and random serial numbers; lifetimes count from `now` (epoch seconds).

    Raises InvalidValueError when the issuing certificate would outlive its root.
    """
    if not 0 < issuer_seconds <= root_seconds:
        raise InvalidValueError(
            f"an issuing certificate of {issuer_seconds} s under a root of {root_seconds} s",
            wanted="an issuing certificate that ends no later than its root",
        )
    root = make_root(trust_domain, now=now, key_type=key_type, seconds=root_seconds)
    return Hierarchy(root, make_issuer(trust_domain, root, now=now, key_type=key_type, seconds=issuer_seconds))


def make_root(trust_domain: TrustDomain, *, now: float, key_type: KeyKind, seconds: int) -> Authority:
    """Make a self-signed root that allows exactly one authority below it."""
    key = generate(key_type)
    name = _subject(trust_domain, "root")
    builder = _builder(trust_domain, key, name, now=now, seconds=seconds, path_length=1).issuer_name(name)
    return Authority(builder.sign(key, digest_for(key)), key)


def make_issuer(
    trust_domain: TrustDomain, parent: Authority, *, now: float, key_type: KeyKind, seconds: int
) -> Authority:
    """Make an issuing authority under `parent` that allows none below it; it never ends after its parent.

    Raises InvalidValueError when the parent has expired.
    """
    left = int(parent.certificate.not_valid_after_utc.timestamp()) - int(now)
    if left <= 0:
        raise InvalidValueError(f"a root that expired {-left} s ago", wanted="a root that is valid now")
    key = generate(key_type)
    authority = x509.AuthorityKeyIdentifier(_key_id(parent.key), None, None)
    builder = (
        _builder(
            trust_domain, key, _subject(trust_domain, "issuer"), now=now, seconds=min(seconds, left), path_length=0
        )
        .issuer_name(parent.certificate.subject)
        .add_extension(authority, critical=False)
    )
    return Authority(builder.sign(parent.key, digest_for(parent.key)), key)


def _subject(trust_domain: TrustDomain, role: str) -> x509.Name:
    """A name no other authority has: two of one name and two keys send validators down the wrong path (spire#1004)."""
    common = f"{trust_domain} {role}"
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common if len(common) <= _COMMON_NAME_LIMIT else f"meshpki {role}"),
            x509.NameAttribute(NameOID.SERIAL_NUMBER, str(serials.draw())),
        ]
    )


def _builder(
    trust_domain: TrustDomain, key: PrivateKey, name: x509.Name, *, now: float, seconds: int, path_length: int
) -> x509.CertificateBuilder:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    own_id = x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .serial_number(serials.draw())
        .not_valid_before(datetime.fromtimestamp(int(now) - BACKDATE_SECONDS, UTC))
        .not_valid_after(datetime.fromtimestamp(int(now) + seconds, UTC))
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier(_key_id(key)), critical=False)
        .add_extension(x509.SubjectAlternativeName([own_id]), critical=False)
    )


def _key_id(key: PrivateKey) -> bytes:
    spki = spki_of(key.public_key())
    kind = kind_of_spki(spki)
    if kind is None:
        raise InvalidValueError("a CA key of a kind that we do not sign with", wanted=", ".join(KeyKind))
    return key_identifier(key_bits(spki, kind))
