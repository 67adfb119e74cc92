"""The time of attestation in a leaf: its form, its place, and that nothing changes where there is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshpki.ca import attestation, der
from meshpki.ca.attestation import read_attested_at
from meshpki.ca.csr import CsrKey
from meshpki.ca.issue import issue
from meshpki.ca.keys import KeyKind, sample_public_key, spki_of
from meshpki.ca.lifetime import Lifetime, LifetimeLimit
from meshpki.ca.prepare import prepare, prepare_leaf
from meshpki.ca.profile import Profile
from meshpki.ca.server.self_check import library_tbs, self_check
from meshpki.ca.template import Leaf, Purpose
from meshpki.errors import IntegrityError
from meshpki.identity import SpiffeId
from support.authority import MESH, NOW, TestAuthority, csr_key, key, make_authority

WEB = SpiffeId.parse("spiffe://mesh.local/ns/default/sa/web")
RENEWING = Profile(MESH, default_ttl_seconds=600, max_ttl_seconds=3600, max_without_token_seconds=7200)
LAST = 253_402_300_799


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return make_authority(now=NOW)


def leaf(attested_at: int | None, kind: KeyKind = KeyKind.EC_P256) -> Leaf:
    lifetime = Lifetime(NOW, NOW + 3600, LifetimeLimit.DEFAULT)
    csr = CsrKey(spki_of(sample_public_key(kind)), kind)
    return Leaf(Purpose.WORKLOAD, csr, 7 << 100, lifetime, spiffe_id=str(WEB), attested_at=attested_at)


def certificate(authority: TestAuthority, attested_at: int | None) -> x509.Certificate:
    answer = issue(prepare_leaf(authority.issuer, leaf(attested_at)))
    return x509.load_pem_x509_certificate(answer.leaf_pem.encode())


def with_value(value: bytes) -> x509.Extensions:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier(attestation.OID), value)
    return x509.Extensions([x509.Extension(unknown.oid, critical=False, value=unknown)])


def test_go_can_read_the_identifier() -> None:
    """crypto/x509 refuses a certificate in which any number of an identifier has more than 31 bits."""
    assert all(int(number) < 2**31 for number in attestation.OID.split("."))


@pytest.mark.parametrize("kind", KeyKind)
def test_the_template_writes_what_the_library_writes(kind: KeyKind, authority: TestAuthority) -> None:
    made = leaf(NOW - 5, kind)
    assert prepare_leaf(authority.issuer, made).spend() == library_tbs(authority.issuer, made, key())


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(at=st.integers(0, LAST))
def test_every_time_is_read_back(at: int, authority: TestAuthority) -> None:
    assert read_attested_at(certificate(authority, at).extensions) == at


def test_it_is_not_critical_and_the_last_of_seven(authority: TestAuthority) -> None:
    extensions = list(certificate(authority, NOW).extensions)
    assert len(extensions) == 7
    assert (extensions[-1].oid.dotted_string, extensions[-1].critical) == (attestation.OID, False)


def test_without_it_the_bytes_are_those_of_before(authority: TestAuthority) -> None:
    plain = prepare_leaf(authority.issuer, leaf(None)).spend()
    attested = prepare_leaf(authority.issuer, leaf(NOW)).spend()
    assert attestation.OID not in [each.oid.dotted_string for each in certificate(authority, None).extensions]
    extension = der.extension(attestation.OID, der.generalized_time(NOW))
    before = der.children(plain)
    after = der.children(attested)
    assert before[:-1] == after[:-1]
    inside = der.children(before[-1][der.span(before[-1], 0)[0] :])
    assert der.children(after[-1][der.span(after[-1], 0)[0] :]) == [*inside, extension]
    assert read_attested_at(certificate(authority, None).extensions) is None


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\x18\x0f20270115080000",
        b"\x17\x0d270115080000Z",
        b"\x18\x1120270115080000.5Z",
        b"\x18\x1320270115080000+0100",
        b"\x18\x0f20270115080000Z\x00",
        b"\x18\x0f20271315080000Z",
        b"\x18\x0f20270115080060Z",
        b"\x18\x0f20270230080000Z",
        b"\x18\x0f00000115080000Z",
        b"\x18\x0f19691231235959Z",
        b"\x18\x0f2027011508000\xb2Z",
        b"\x04\x0f20270115080000Z",
    ],
)
def test_another_form_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError):  # the parser of the calendar has words of its own
        read_attested_at(with_value(value))


def test_the_form_itself_is_read() -> None:
    assert read_attested_at(with_value(b"\x18\x0f20270115080000Z")) == NOW


class Tampering:
    """A template that puts another time into the certificate than the leaf says."""

    def __init__(self, authority: TestAuthority, attested_at: int) -> None:
        self._template = authority.issuer.templates[Purpose.WORKLOAD, KeyKind.EC_P256]
        self._attested_at = attested_at

    def fill(self, holes: tuple[bytes, ...]) -> bytes:
        return self._template.fill((*holes[:6], der.generalized_time(self._attested_at)))


@pytest.mark.parametrize("said", [NOW, None])
def test_the_lint_finds_another_time_or_one_too_many(said: int | None, authority: TestAuthority) -> None:
    templates = {(Purpose.WORKLOAD, KeyKind.EC_P256): Tampering(authority, NOW + 60)}
    with pytest.raises(IntegrityError, match=r"lacks a part|set of extensions"):
        prepare_leaf(replace(authority.issuer, templates=templates), leaf(said))  # type: ignore[arg-type]  # a stand-in


def test_the_check_before_serving_covers_it(authority: TestAuthority, monkeypatch: pytest.MonkeyPatch) -> None:
    self_check(authority.issuer, RENEWING)
    monkeypatch.setattr(
        "meshpki.ca.server.self_check.library_extension", lambda at: attestation.library_extension(at + 1)
    )
    self_check(authority.issuer, Profile(MESH))  # nothing to compare where it is off
    with pytest.raises(IntegrityError, match="other bytes"):
        self_check(authority.issuer, RENEWING)


@pytest.mark.parametrize(("profile", "attested_at"), [(RENEWING, None), (Profile(MESH), NOW)])
def test_it_is_given_exactly_where_the_profile_wants_it(
    profile: Profile, attested_at: int | None, authority: TestAuthority
) -> None:
    def made(profile: Profile, attested_at: int | None) -> object:
        return prepare(
            authority.issuer,
            profile,
            WEB,
            csr_key(),
            requested_seconds=0,
            token_expires_at=None,
            now=NOW,
            serial=1,
            attested_at=attested_at,
        )

    assert made(RENEWING, NOW)
    assert made(Profile(MESH), None)
    with pytest.raises(IntegrityError, match="time of attestation"):
        made(profile, attested_at)


def test_the_certificate_says_when_it_ends_by_it(authority: TestAuthority) -> None:
    prepared = prepare(
        authority.issuer,
        RENEWING,
        WEB,
        csr_key(),
        requested_seconds=3600,
        token_expires_at=None,
        now=NOW,
        serial=1,
        attested_at=NOW - 7000,
    )
    found = x509.load_pem_x509_certificate(issue(prepared).leaf_pem.encode())
    assert found.not_valid_after_utc == datetime.fromtimestamp(NOW + 200, UTC)
    assert prepared.leaf.lifetime.limited_by is LifetimeLimit.ATTESTATION
