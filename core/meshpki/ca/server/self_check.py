"""Before a CA serves: every template it holds against the library's own certificate builder, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, cast

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca.attestation import library_extension
from meshpki.ca.chain import trust_domain_of
from meshpki.ca.csr import CsrKey
from meshpki.ca.keys import KeyKind, digest_for, generate, key_bits, sample_public_key, spki_of
from meshpki.ca.lifetime import Lifetime, LifetimeLimit
from meshpki.ca.lint import general_names, key_usage
from meshpki.ca.prepare import prepare_leaf
from meshpki.ca.template import Leaf, Purpose, key_identifier
from meshpki.errors import IntegrityError, InvalidValueError

if TYPE_CHECKING:
    from meshpki.ca.issuer import Issuer
    from meshpki.ca.keys import PrivateKey, PublicKey
    from meshpki.ca.profile import Profile

_SERIAL: Final = 2**127 + 0x5EED


def self_check(issuer: Issuer, profile: Profile) -> None:
    """Build each leaf a second time with the library, signed by a throw-away key, and compare (Boulder's twin).

    Nothing is signed with the issuer's key. Takes some milliseconds, for an RSA issuer some hundred: the throw-away
    key has to be of the issuer's class. Raises IntegrityError when a template differs, InvalidValueError when the
    issuing certificate is another trust domain's.
    """
    named = trust_domain_of(issuer.certificates[0])
    if named is not None and named != profile.trust_domain:
        raise InvalidValueError(
            f"an issuing certificate of trust domain {named} for the profile of {profile.trust_domain}",
            wanted="both of one trust domain",
            todo="put the right certificate or the right `trust_domain` into the configuration",
        )
    throw_away = generate(KeyKind.RSA_2048 if issuer.key_kind.is_rsa else issuer.key_kind)
    ends = min(issuer.not_before + profile.max_ttl_seconds, issuer.not_after)
    lifetime = Lifetime(issuer.not_before, ends, LifetimeLimit.PROFILE)
    uri = f"spiffe://{profile.trust_domain}/ns/check/sa/check"
    for kind in KeyKind:
        key = CsrKey(spki_of(sample_public_key(kind)), kind)
        attested_at = None if profile.max_without_token_seconds is None else lifetime.not_before
        workload = Leaf(Purpose.WORKLOAD, key, _SERIAL, lifetime, spiffe_id=uri, attested_at=attested_at)
        compare(issuer, workload, throw_away)
        compare(issuer, Leaf(Purpose.SERVING, key, _SERIAL, lifetime, server_names=("check.invalid",)), throw_away)


def compare(issuer: Issuer, leaf: Leaf, throw_away: PrivateKey) -> None:
    """Raise IntegrityError unless template and library write the same TBSCertificate for `leaf`."""
    ours = prepare_leaf(issuer, leaf).spend()
    theirs = library_tbs(issuer, leaf, throw_away)
    if ours != theirs:
        raise IntegrityError(
            f"the template for {leaf.purpose.name.lower()} certificates with {leaf.key.kind} keys writes other bytes "
            "than the library",
            wanted="the same certificate from both",
            todo="do not serve with this build; report it with the versions of meshpki and cryptography",
            evidence=(f"template {ours.hex()}", f"library {theirs.hex()}"),
        )


def library_tbs(issuer: Issuer, leaf: Leaf, throw_away: PrivateKey) -> bytes:
    """Build the certificate of `leaf` with `x509.CertificateBuilder`, sign it with a key to be thrown away."""
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    spki = leaf.key.spki
    twin = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.certificates[0].subject)
        .serial_number(leaf.serial)
        .not_valid_before(datetime.fromtimestamp(leaf.lifetime.not_before, UTC))
        .not_valid_after(datetime.fromtimestamp(leaf.lifetime.not_after, UTC))
        .public_key(cast("PublicKey", load_der_public_key(spki)))
        .add_extension(key_usage(encipherment=leaf.key.kind.is_rsa), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages[: len(leaf.purpose.value)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_identifier(key_bits(spki, leaf.key.kind))), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier(bytes.fromhex(issuer.key_id), None, None), critical=False)
        .add_extension(x509.SubjectAlternativeName(general_names(leaf)), critical=True)
    )
    if leaf.attested_at is not None:
        twin = twin.add_extension(library_extension(leaf.attested_at), critical=False)
    return twin.sign(throw_away, digest_for(throw_away)).tbs_certificate_bytes
