"""The certificates themselves: the X509-SVID rules, the library's bytes, and what they do not depend on."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID, NameOID, ObjectIdentifier
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshpki.ca import der
from meshpki.ca.csr import CsrKey, read_csr
from meshpki.ca.issue import Issued, issue
from meshpki.ca.keys import KeyKind, digest_for, sample_public_key, spki_of
from meshpki.ca.lifetime import Lifetime, LifetimeLimit
from meshpki.ca.prepare import prepare, prepare_leaf
from meshpki.ca.profile import Profile
from meshpki.ca.serials import draw
from meshpki.ca.server.self_check import compare, library_tbs, self_check
from meshpki.ca.template import Leaf, Purpose, Template
from meshpki.errors import IntegrityError, InvalidValueError
from meshpki.identity import SpiffeId, TrustDomain
from support.authority import MESH, NOW, TestAuthority, csr_key, key, make_authority, make_csr

ISSUERS = [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072]
WEB = SpiffeId.parse("spiffe://mesh.local/ns/default/sa/web")
SERIAL = 0x7ABC << 100


@pytest.fixture(scope="module")
def authorities() -> dict[KeyKind, TestAuthority]:
    return {kind: make_authority(key_type=kind, now=NOW) for kind in ISSUERS}


@pytest.fixture(scope="module")
def authority(authorities: dict[KeyKind, TestAuthority]) -> TestAuthority:
    return authorities[KeyKind.EC_P256]


def issued(authority: TestAuthority, csr: CsrKey, identity: SpiffeId = WEB, serial: int = SERIAL) -> Issued:
    prepared = prepare(
        authority.issuer,
        authority.profile,
        identity,
        csr,
        requested_seconds=3600,
        token_expires_at=None,
        now=NOW,
        serial=serial,
    )
    return issue(prepared)


def leaf_of(answer: Issued) -> x509.Certificate:
    return x509.load_pem_x509_certificate(answer.leaf_pem.encode())


@pytest.mark.parametrize("signing", ISSUERS)
@pytest.mark.parametrize("kind", ISSUERS)
def test_the_rules_of_an_x509_svid(kind: KeyKind, signing: KeyKind, authorities: dict[KeyKind, TestAuthority]) -> None:
    answer = issued(authorities[signing], csr_key(kind))
    leaf = leaf_of(answer)
    found = {each.oid: each for each in leaf.extensions}
    names = found[ExtensionOID.SUBJECT_ALTERNATIVE_NAME]
    assert names.critical
    assert list(names.value) == [x509.UniformResourceIdentifier(str(WEB))]
    assert leaf.subject == x509.Name([])
    constraints = found[ExtensionOID.BASIC_CONSTRAINTS]
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical
    assert usage.value.digital_signature
    assert usage.value.key_encipherment is kind.value.startswith("rsa")
    assert not any(
        getattr(usage.value, name)
        for name in ("content_commitment", "data_encipherment", "key_agreement", "key_cert_sign", "crl_sign")
    )
    assert found[ExtensionOID.EXTENDED_KEY_USAGE].value == x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    assert len(found) == 6
    assert leaf.serial_number == SERIAL == answer.serial
    assert leaf.not_valid_before_utc == datetime.fromtimestamp(NOW - 120, UTC)
    assert leaf.not_valid_after_utc == datetime.fromtimestamp(NOW + 3600, UTC)
    issuing = authorities[signing].issuer.certificates[0]
    leaf.verify_directly_issued_by(issuing)
    authority_id = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert authority_id == issuing.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert answer.issuer_key_id == authority_id.hex()
    public = leaf.public_key()
    assert isinstance(public, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert spki_of(public) == csr_key(kind).spki


@pytest.mark.parametrize("signing", ISSUERS)
@pytest.mark.parametrize("purpose", Purpose)
@pytest.mark.parametrize("kind", KeyKind)
def test_the_template_writes_what_the_library_writes(
    kind: KeyKind, purpose: Purpose, signing: KeyKind, authorities: dict[KeyKind, TestAuthority]
) -> None:
    issuer = authorities[signing].issuer
    lifetime = Lifetime(NOW, NOW + 3600, LifetimeLimit.DEFAULT)
    csr = CsrKey(spki_of(sample_public_key(kind)), kind)
    if purpose is Purpose.WORKLOAD:
        leaf = Leaf(purpose, csr, SERIAL, lifetime, spiffe_id=str(WEB))
    else:
        leaf = Leaf(purpose, csr, SERIAL, lifetime, server_names=("localhost", "a.example"))
    assert prepare_leaf(issuer, leaf).spend() == library_tbs(issuer, leaf, key(signing))


NAME = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=63).filter(
    lambda text: text[0] != "-" and text[-1] != "-"
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    path=st.lists(NAME, min_size=1, max_size=30),
    serial=st.integers(1, 2**159 - 1),
    starts=st.integers(0, 253_402_300_000),
    lasts=st.integers(0, 10**9),
    number=st.integers(0, 3),
)
def test_the_library_agrees_whatever_the_lengths(
    path: list[str], serial: int, starts: int, lasts: int, number: int, authority: TestAuthority
) -> None:
    ends = min(starts + lasts, 253_402_300_799)
    lifetime = Lifetime(starts, ends, LifetimeLimit.DEFAULT)
    uri = str(SpiffeId(MESH, tuple(path)))
    leaf = Leaf(Purpose.WORKLOAD, csr_key(number=number), serial, lifetime, spiffe_id=uri)
    assert prepare_leaf(authority.issuer, leaf).spend() == library_tbs(authority.issuer, leaf, key())


@pytest.mark.parametrize(
    ("epoch", "written"),
    [
        (0, b"\x17\x0d700101000000Z"),
        (der.YEAR_2050 - 1, b"\x17\x0d491231235959Z"),
        (der.YEAR_2050, b"\x18\x0f20500101000000Z"),
        (253_402_300_799, b"\x18\x0f99991231235959Z"),
    ],
)
def test_time_turns_over_at_2050(epoch: int, written: bytes) -> None:
    assert der.moment(epoch) == written


@pytest.mark.parametrize("epoch", [-1, 253_402_300_800])
def test_what_no_certificate_can_hold_is_no_time(epoch: int) -> None:
    with pytest.raises(ValueError, match="no time"):
        der.moment(epoch)


def test_a_certificate_across_2050(authority: TestAuthority) -> None:
    lifetime = Lifetime(der.YEAR_2050 - 60, der.YEAR_2050 + 60, LifetimeLimit.DEFAULT)
    leaf = Leaf(Purpose.WORKLOAD, csr_key(), SERIAL, lifetime, spiffe_id=str(WEB))
    found = leaf_of(issue(prepare_leaf(authority.issuer, leaf)))
    assert found.not_valid_before_utc == datetime(2049, 12, 31, 23, 59, tzinfo=UTC)
    assert found.not_valid_after_utc == datetime(2050, 1, 1, 0, 1, tzinfo=UTC)


def general_names() -> st.SearchStrategy[x509.GeneralName]:
    return st.one_of(
        st.sampled_from(["spiffe://mesh.local/ns/kube-system/sa/admin", "spiffe://other", "https://x"]).map(
            x509.UniformResourceIdentifier
        ),
        NAME.map(x509.DNSName),
        st.ip_addresses().map(x509.IPAddress),
        st.just(x509.RFC822Name("root@example.com")),
        st.just(x509.OtherName(ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x04root")),
    )


EXTENSIONS: st.SearchStrategy[x509.ExtensionType] = st.one_of(
    st.lists(general_names(), min_size=1, max_size=8).map(x509.SubjectAlternativeName),
    st.builds(x509.BasicConstraints, ca=st.just(value=True), path_length=st.none() | st.integers(0, 9)),
    st.just(
        x509.KeyUsage(
            digital_signature=False,
            content_commitment=True,
            key_encipherment=True,
            data_encipherment=True,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
    ),
    st.lists(
        st.sampled_from([ExtendedKeyUsageOID.CODE_SIGNING, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE]), min_size=1
    ).map(lambda oids: x509.ExtendedKeyUsage(list(dict.fromkeys(oids)))),
    st.binary(max_size=64).map(x509.SubjectKeyIdentifier),
    st.builds(
        x509.UnrecognizedExtension,
        oid=st.integers(1, 10**6).map(lambda last: ObjectIdentifier(f"1.3.6.1.4.1.99999.{last}")),
        value=st.binary(max_size=200),
    ),
    st.just(x509.NameConstraints([x509.DNSName("a.example")], None)),
    st.just(x509.OCSPNoCheck()),
    st.just(x509.TLSFeature([x509.TLSFeatureType.status_request])),
)
SUBJECTS = st.lists(
    st.builds(
        x509.NameAttribute,
        oid=st.sampled_from([NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME, NameOID.SERIAL_NUMBER]),
        value=st.text("abc =,+ROOT", min_size=1, max_size=40),
    ),
    max_size=5,
).map(x509.Name)


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    extensions=st.lists(
        st.tuples(EXTENSIONS, st.booleans()), max_size=6, unique_by=lambda each: each[0].oid.dotted_string
    ),
    subject=SUBJECTS,
)
def test_the_bytes_depend_on_key_identity_and_profile_alone(
    extensions: list[tuple[x509.ExtensionType, bool]], subject: x509.Name, authority: TestAuthority
) -> None:
    plain = prepare_tbs(authority, make_csr())
    assert prepare_tbs(authority, make_csr(subject=subject, extensions=extensions)) == plain


def prepare_tbs(authority: TestAuthority, csr: str, identity: SpiffeId = WEB, profile: Profile | None = None) -> bytes:
    return prepare(
        authority.issuer,
        profile or authority.profile,
        identity,
        read_csr(csr),
        requested_seconds=0,
        token_expires_at=None,
        now=NOW + 0.75,
        serial=SERIAL,
    ).spend()


def test_they_do_depend_on_each_of_the_three(authority: TestAuthority) -> None:
    plain = prepare_tbs(authority, make_csr())
    assert prepare_tbs(authority, make_csr(key(number=1))) != plain
    assert prepare_tbs(authority, make_csr(), SpiffeId.parse("spiffe://mesh.local/ns/default/sa/other")) != plain
    assert prepare_tbs(authority, make_csr(), profile=Profile(MESH, default_ttl_seconds=60)) != plain


@pytest.mark.parametrize("identity", ["spiffe://mesh.local", "spiffe://other.local/ns/default/sa/web"])
def test_an_identity_that_is_not_ours_is_not_prepared(identity: str, authority: TestAuthority) -> None:
    with pytest.raises(IntegrityError, match="was to be certified"):
        prepare_tbs(authority, make_csr(), SpiffeId.parse(identity))


@pytest.mark.parametrize("serial", [0, 2**159, 2**200])
def test_a_serial_number_out_of_range_is_not_signed(serial: int, authority: TestAuthority) -> None:
    issued(authority, csr_key(), serial=1)  # a shape that is known must not open the door
    with pytest.raises(IntegrityError, match="serial"):
        issued(authority, csr_key(), serial=serial)


def test_what_ends_before_it_begins_is_not_signed(authority: TestAuthority) -> None:
    backwards = Lifetime(NOW, NOW - 1, LifetimeLimit.DEFAULT)
    with pytest.raises(IntegrityError, match="ends before it begins"):
        prepare_leaf(authority.issuer, Leaf(Purpose.WORKLOAD, csr_key(), 5, backwards, spiffe_id=str(WEB)))


def test_a_preparation_is_signed_once(authority: TestAuthority) -> None:
    prepared = prepare_leaf(
        authority.issuer,
        Leaf(Purpose.WORKLOAD, csr_key(), 5, Lifetime(NOW, NOW + 9, LifetimeLimit.DEFAULT), spiffe_id=str(WEB)),
    )
    issue(prepared)
    with pytest.raises(IntegrityError, match="certificate 5 was to be signed twice"):
        issue(prepared)


def test_the_answer_has_the_shape_that_istio_has(authority: TestAuthority) -> None:
    answer = issued(authority, csr_key())
    assert len(answer.cert_chain) == 3
    assert answer.cert_chain[0] == answer.leaf_pem
    for element in answer.cert_chain:
        assert element.endswith("-----END CERTIFICATE-----\n")
        assert len(x509.load_pem_x509_certificates(element.encode())) == 1
        assert max(len(line) for line in element.splitlines()) == 64
    root = x509.load_pem_x509_certificate(answer.cert_chain[-1].encode())
    assert root == authority.hierarchy.root.certificate


def broken(template: Template, issuer_name: bytes = b"", before: bytes = b"", after: bytes = b"") -> Template:
    return Template(
        issuer_name or template.algorithm_and_issuer,
        before or template.extensions_before,
        after or template.extensions_after,
    )


def breakages(good: Template) -> dict[str, Template]:
    head, tail = good.extensions_before, good.extensions_after
    ca = head.replace(
        der.extension("2.5.29.19", b"\x30\x00", critical=True),
        der.extension("2.5.29.19", b"\x30\x03\x01\x01\xff", critical=True),
    )
    assert ca != head
    return {
        "CA:TRUE": broken(good, before=ca),
        "keyCertSign": broken(good, before=head.replace(b"\x03\x02\x07\x80", b"\x03\x02\x02\x84")),
        "not critical": broken(good, before=head.replace(b"\x01\x01\xff\x04\x04", b"\x01\x01\x00\x04\x04")),
        "one more extension": broken(good, after=tail + der.extension("1.3.6.1.4.1.9999.1", b"\x05\x00")),
        "one extension twice": broken(good, after=tail + tail),
        "another authority": broken(good, after=tail[:-1] + bytes((tail[-1] ^ 1,))),
        "another issuer": broken(good, issuer_name=good.algorithm_and_issuer.replace(b"mesh.local", b"mesh.lokal")),
        "cut": broken(good, after=tail[:-1]),
    }


@pytest.mark.parametrize(
    "name",
    [
        "CA:TRUE",
        "keyCertSign",
        "not critical",
        "one more extension",
        "one extension twice",
        "another authority",
        "another issuer",
        "cut",
    ],
)
def test_a_broken_template_is_noticed_before_anything_is_signed(name: str, authority: TestAuthority) -> None:
    good = authority.issuer.templates[Purpose.WORKLOAD, KeyKind.EC_P256]
    leaf = Leaf(Purpose.WORKLOAD, csr_key(), 5, Lifetime(NOW, NOW + 9, LifetimeLimit.DEFAULT), spiffe_id=str(WEB))
    authority.issuer.linter.lint(good.fill(leaf.holes()), leaf.holes(), leaf)
    bad = breakages(good)[name].fill(leaf.holes())
    with pytest.raises(IntegrityError, match="not signed"):
        authority.issuer.linter.lint(bad, leaf.holes(), leaf)


@pytest.mark.parametrize("hole", range(6))
def test_a_hole_filled_with_something_else_is_noticed(hole: int, authority: TestAuthority) -> None:
    template = authority.issuer.templates[Purpose.WORKLOAD, KeyKind.EC_P256]
    lifetime, other = Lifetime(NOW, NOW + 9, LifetimeLimit.DEFAULT), Lifetime(NOW + 1, NOW + 8, LifetimeLimit.DEFAULT)
    leaf = Leaf(Purpose.WORKLOAD, csr_key(), 5, lifetime, spiffe_id=str(WEB))
    twin = Leaf(Purpose.WORKLOAD, csr_key(number=1), 6, other, spiffe_id=str(WEB).replace("web", "bew"))
    right, wrong = leaf.holes(), twin.holes()
    authority.issuer.linter.lint(template.fill(right), right, leaf)
    authority.issuer.linter.lint(template.fill(wrong), wrong, twin)
    mixed = list(right)
    mixed[hole] = wrong[hole]
    serial, starts, ends, spki, key_id, names = mixed
    with pytest.raises(IntegrityError):
        authority.issuer.linter.lint(template.fill((serial, starts, ends, spki, key_id, names)), right, leaf)


@pytest.mark.parametrize("signing", ISSUERS)
def test_the_check_at_start_up_passes(signing: KeyKind, authorities: dict[KeyKind, TestAuthority]) -> None:
    self_check(authorities[signing].issuer, authorities[signing].profile)


def test_the_check_at_start_up_compares_with_the_library(
    authority: TestAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaf = Leaf(Purpose.WORKLOAD, csr_key(), 5, Lifetime(NOW, NOW + 9, LifetimeLimit.DEFAULT), spiffe_id=str(WEB))
    compare(authority.issuer, leaf, key())
    monkeypatch.setattr("meshpki.ca.server.self_check.library_tbs", lambda *_: b"other")
    with pytest.raises(IntegrityError, match="ec-p256") as caught:
        self_check(authority.issuer, authority.profile)
    assert len(caught.value.evidence) == 2


def test_an_issuer_of_another_trust_domain_is_noticed(authority: TestAuthority) -> None:
    with pytest.raises(InvalidValueError, match=r"mesh\.local .* other\.local"):
        self_check(authority.issuer, Profile(TrustDomain("other.local")))


def test_serial_numbers_are_128_random_bits_and_never_zero() -> None:
    drawn = iter([bytes(16), b"\xff" * 16])
    assert draw(lambda size: next(drawn)) == 2**128 - 1
    assert len({draw() for _ in range(1000)}) == 1000
    assert max(draw() for _ in range(200)).bit_length() > 120


def test_reprs_hold_no_key_and_no_bytes(authority: TestAuthority) -> None:
    leaf = Leaf(Purpose.WORKLOAD, csr_key(), 5, Lifetime(NOW, NOW + 9, LifetimeLimit.DEFAULT), spiffe_id=str(WEB))
    text = repr(prepare_leaf(authority.issuer, leaf)) + repr(authority.issuer) + repr(authority.hierarchy)
    assert "PRIVATE" not in text
    assert "PrivateKey" not in text
    assert repr(authority.signer) == "SoftwareSigner(2 certificates)"


@pytest.mark.parametrize("signing", ISSUERS)
def test_the_signature_is_of_the_kind_that_its_key_has(
    signing: KeyKind, authorities: dict[KeyKind, TestAuthority]
) -> None:
    signer, private = authorities[signing].signer, authorities[signing].hierarchy.issuer.key
    match private.public_key():
        case ec.EllipticCurvePublicKey() as public:
            public.verify(signer.sign(b"tbs"), b"tbs", ec.ECDSA(digest_for(public)))
        case rsa.RSAPublicKey() as wide:
            wide.verify(signer.sign(b"tbs"), b"tbs", padding.PKCS1v15(), digest_for(wide))
