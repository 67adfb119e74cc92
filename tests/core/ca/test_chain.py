"""Chains and signers: what is examined before an authority may issue."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from meshpki.ca import der, pem
from meshpki.ca import issue as issuing
from meshpki.ca.chain import check_chain, trust_domain_of
from meshpki.ca.hierarchy import Authority, build_hierarchy, make_issuer, make_root
from meshpki.ca.issuer import Issuer
from meshpki.ca.keys import KeyKind, private_pem
from meshpki.ca.signer import SoftwareSigner, load_certificates, load_private_key
from meshpki.errors import IntegrityError, InvalidValueError, MachineError
from meshpki.identity import TrustDomain
from support.authority import MESH, NOW, key, make_authority

P256 = KeyKind.EC_P256
YEAR = 365 * 86_400


def root(seconds: int = 10 * YEAR, now: int = NOW) -> Authority:
    return make_root(MESH, now=now, key_type=P256, seconds=seconds)


def below(parent: Authority, seconds: int = YEAR, now: int = NOW) -> Authority:
    return make_issuer(MESH, parent, now=now, key_type=P256, seconds=seconds)


def custom(parent: Authority | None, *extensions: tuple[x509.ExtensionType, bool], now: int = NOW) -> Authority:
    """A certificate with only those extensions (value, critical), under `parent` or self-signed."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"custom {len(extensions)}")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(parent.certificate.subject if parent else name)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.fromtimestamp(now - 60, UTC))
        .not_valid_after(datetime.fromtimestamp(now + YEAR, UTC))
        .public_key(private.public_key())
    )
    for value, critical in extensions:
        builder = builder.add_extension(value, critical=critical)
    signing = parent.key if parent else private
    return Authority(builder.sign(signing, issuing_hash()), private)


def issuing_hash() -> hashes.SHA256:
    return hashes.SHA256()


def usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


CA = (x509.BasicConstraints(ca=True, path_length=None), True)
NOT_CA = (x509.BasicConstraints(ca=False, path_length=None), True)


def chain(*authorities: Authority) -> list[x509.Certificate]:
    return [each.certificate for each in authorities]


def test_good_chains() -> None:
    top = root()
    check_chain(chain(top))
    check_chain(chain(below(top), top))
    open_top = custom(None, CA, (usage(signs=True), True))
    middle = custom(open_top, CA, (usage(signs=True), True))
    check_chain(chain(below(middle), middle, open_top))


def bad_chains() -> dict[str, tuple[list[x509.Certificate], str]]:
    top = root()
    first = below(top)
    under = make_issuer(MESH, first, now=NOW, key_type=P256, seconds=YEAR)
    plain = custom(top, NOT_CA, (usage(signs=True), True))
    no_usage = custom(top, CA)
    wrong_usage = custom(top, CA, (usage(signs=False), True))
    early = root(seconds=YEAR)
    late = custom(early, CA, (usage(signs=True), True), now=NOW + 2 * YEAR)
    return {
        "empty": ([], "a chain of 0"),
        "too long": (chain(*[top] * 9), "a chain of 9"),
        "wrong order": (chain(top, first), "allows 0 CA certificates below it"),
        "root missing": (chain(first), "is not signed by"),
        "another root": (chain(first, root()), "is not signed by"),
        "middle missing": (chain(under, top), "is not signed by"),
        "pathLen too short": (chain(under, first, top), "allows 0 CA certificates below it, the chain has 1"),
        "no CA": (chain(plain, top), "may not sign certificates"),
        "no key usage": (chain(no_usage, top), "wanted: a CA certificate with basicConstraints and keyUsage"),
        "no keyCertSign": (chain(wrong_usage, top), "may not sign certificates"),
        "no extension": (chain(custom(top), top), "wanted: a CA certificate"),
        "never valid together": (chain(late, early), "never valid together"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "empty",
        "too long",
        "wrong order",
        "root missing",
        "another root",
        "middle missing",
        "pathLen too short",
        "no CA",
        "no key usage",
        "no keyCertSign",
        "no extension",
        "never valid together",
    ],
)
def test_a_chain_that_no_validator_follows_is_refused(name: str) -> None:
    certificates, seen = bad_chains()[name]
    with pytest.raises(InvalidValueError, match=seen):
        check_chain(certificates)


def test_an_issuer_is_not_made_of_such_a_chain() -> None:
    mine = make_authority(now=NOW)
    backwards = LyingSigner([mine.hierarchy.issuer.certificate, root().certificate], mine.signer)
    with pytest.raises(InvalidValueError, match="is not signed by"):
        Issuer.from_signer(backwards)


class LyingSigner:
    """A signer whose key is not the one in its certificate."""

    def __init__(self, certificates: list[x509.Certificate], signing: SoftwareSigner) -> None:
        self.chain = tuple(each.public_bytes(Encoding.DER) for each in certificates)
        self._signing = signing
        self.signed: list[bytes] = []

    def sign(self, tbs: bytes) -> bytes:
        self.signed.append(tbs)
        return self._signing.sign(tbs)


def test_a_signer_with_another_key_is_found_out_at_once() -> None:
    mine, other = make_authority(now=NOW), make_authority(now=NOW)
    liar = LyingSigner(chain(mine.hierarchy.issuer, mine.hierarchy.root), other.signer)
    with pytest.raises(IntegrityError, match="does not belong to the issuing certificate"):
        Issuer.from_signer(liar)


def test_the_probe_can_never_be_used_as_a_certificate() -> None:
    mine = make_authority(now=NOW)
    recorder = LyingSigner(chain(mine.hierarchy.issuer, mine.hierarchy.root), mine.signer)
    issuer = Issuer.from_signer(recorder)
    (probe,) = recorder.signed
    signature = der.bit_string(issuing.sign_probe(recorder, probe))
    certificate = x509.load_der_x509_certificate(der.element(der.SEQUENCE, probe + issuer.algorithm + signature))
    assert certificate.not_valid_after_utc == datetime.fromtimestamp(0, UTC)
    assert certificate.public_key() == mine.hierarchy.issuer.key.public_key()


def test_no_certificate_in_the_chain() -> None:
    class Broken:
        chain = (b"\x30\x00",)

        def sign(self, tbs: bytes) -> bytes:
            return tbs

    with pytest.raises(InvalidValueError, match="no certificate"):
        Issuer.from_signer(Broken())


def test_a_certificate_of_no_known_version_is_none(tmp_path: Path) -> None:
    """The library has an error of another kind for it, which is no ValueError."""
    strange = root().certificate.public_bytes(Encoding.DER).replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)

    class Strange:
        chain = (strange,)

        def sign(self, tbs: bytes) -> bytes:
            return tbs

    with pytest.raises(InvalidValueError, match="no certificate"):
        Issuer.from_signer(Strange())
    (tmp_path / "chain.pem").write_text(pem.encode(strange, pem.CERTIFICATE))
    with pytest.raises(InvalidValueError, match="holds no certificates"):
        load_certificates(tmp_path / "chain.pem")


def test_an_issuing_key_of_another_kind_is_refused() -> None:
    private = ec.generate_private_key(ec.SECP521R1())
    top = custom(None, CA, (usage(signs=True), True))
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "p521")]))
        .issuer_name(top.certificate.subject)
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(NOW, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + YEAR, UTC))
        .public_key(private.public_key())
        .add_extension(CA[0], critical=True)
        .add_extension(usage(signs=True), critical=True)
    )
    certificate = builder.sign(top.key, issuing_hash())
    signer = SoftwareSigner([certificate, top.certificate], private)
    with pytest.raises(InvalidValueError, match="of a kind that we do not sign with"):
        Issuer.from_signer(signer)


def test_the_chain_is_valid_while_all_of_it_is() -> None:
    hierarchy = build_hierarchy(MESH, now=NOW, root_seconds=2 * YEAR, issuer_seconds=YEAR)
    issuer = Issuer.from_signer(SoftwareSigner(chain(hierarchy.issuer, hierarchy.root), hierarchy.issuer.key))
    assert (issuer.not_before, issuer.not_after) == (NOW - 3600, NOW + YEAR)


def test_a_root_that_issues_itself_answers_leaf_and_root() -> None:
    top = root()
    issuer = Issuer.from_signer(SoftwareSigner(chain(top), top.key))
    assert len(issuer.chain_elements) == 1
    assert issuer.roots_pem == top.certificate.public_bytes(Encoding.PEM)


def test_a_foreign_issuer_without_key_identifier_gets_one() -> None:
    top = root()
    bare = custom(top, CA, (usage(signs=True), True))
    issuer = Issuer.from_signer(SoftwareSigner(chain(bare, top), bare.key))
    assert len(bytes.fromhex(issuer.key_id)) == 20


def test_trust_domain_of_a_ca() -> None:
    assert trust_domain_of(root().certificate) == MESH
    assert trust_domain_of(custom(None, CA).certificate) is None
    two = x509.SubjectAlternativeName(
        [x509.UniformResourceIdentifier("spiffe://a"), x509.UniformResourceIdentifier("spiffe://b")]
    )
    with pytest.raises(InvalidValueError, match="several"):
        trust_domain_of(custom(None, CA, (two, False)).certificate)


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
def test_a_hierarchy_has_what_the_rules_want(kind: KeyKind) -> None:
    made = build_hierarchy(MESH, now=NOW, key_type=kind)
    for authority, path_length in ((made.root, 1), (made.issuer, 0)):
        extensions = authority.certificate.extensions
        constraints = extensions.get_extension_for_class(x509.BasicConstraints)
        assert (constraints.critical, constraints.value.ca, constraints.value.path_length) == (True, True, path_length)
        signs = extensions.get_extension_for_class(x509.KeyUsage)
        assert (signs.critical, signs.value.key_cert_sign, signs.value.digital_signature) == (True, True, False)
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert list(names) == [x509.UniformResourceIdentifier("spiffe://mesh.local")]
        assert authority.certificate.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)
        assert len(extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest) == 20
    assert made.root.certificate.subject != build_hierarchy(MESH, now=NOW).root.certificate.subject


def test_an_issuer_never_outlives_its_root() -> None:
    top = root(seconds=YEAR)
    assert below(top, seconds=5 * YEAR).certificate.not_valid_after_utc == top.certificate.not_valid_after_utc
    with pytest.raises(InvalidValueError, match="under a root"):
        build_hierarchy(MESH, now=NOW, root_seconds=YEAR, issuer_seconds=YEAR + 1)


def test_no_issuer_under_an_expired_root() -> None:
    with pytest.raises(InvalidValueError, match="expired 0 s ago"):
        below(root(seconds=YEAR), now=NOW + YEAR)


def test_a_long_trust_domain_does_not_break_the_name() -> None:
    made = build_hierarchy(TrustDomain("a" * 255), now=NOW)
    Issuer.from_signer(SoftwareSigner(chain(made.issuer, made.root), made.issuer.key))


def write_key(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_load_wants_a_private_file(tmp_path: Path) -> None:
    path = write_key(tmp_path / "key.pem", private_pem(key()), 0o640)
    with pytest.raises(MachineError, match="mode 0640"):
        load_private_key(path)
    path.chmod(0o600)
    assert load_private_key(path).public_key() == key().public_key()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    ],
)
def test_what_is_no_key_is_refused_without_showing_it(content: bytes, tmp_path: Path) -> None:
    path = write_key(tmp_path / "key.pem", content)
    with pytest.raises(InvalidValueError) as caught:
        load_private_key(path)
    assert caught.value.__cause__ is None
    assert "PRIVATE" not in str(caught.value)


def test_load_needs_no_root_key(tmp_path: Path) -> None:
    mine = make_authority()
    mine.write(tmp_path / "ca")
    assert not (tmp_path / "ca" / "root-key.pem").exists()
    signer = SoftwareSigner.load(
        tmp_path / "ca" / "issuer-cert.pem", tmp_path / "ca" / "issuer-key.pem", tmp_path / "ca" / "root-cert.pem"
    )
    assert signer.chain == mine.signer.chain
    Issuer.from_signer(signer)


def test_load_takes_a_whole_chain_from_one_file(tmp_path: Path) -> None:
    mine = make_authority()
    mine.write(tmp_path)
    both = (tmp_path / "issuer-cert.pem").read_bytes() + mine.root_pem
    (tmp_path / "issuer-cert.pem").write_bytes(both)
    args = (tmp_path / "issuer-cert.pem", tmp_path / "issuer-key.pem")
    assert SoftwareSigner.load(*args).chain == mine.signer.chain
    assert SoftwareSigner.load(*args, tmp_path / "root-cert.pem").chain == mine.signer.chain


def test_load_refuses_a_key_of_another_authority(tmp_path: Path) -> None:
    make_authority().write(tmp_path / "a")
    make_authority().write(tmp_path / "b")
    with pytest.raises(IntegrityError, match="does not belong"):
        SoftwareSigner.load(tmp_path / "a" / "issuer-cert.pem", tmp_path / "b" / "issuer-key.pem")


def test_load_refuses_a_file_without_certificates(tmp_path: Path) -> None:
    make_authority().write(tmp_path)
    (tmp_path / "issuer-cert.pem").write_text("nothing")
    with pytest.raises(InvalidValueError, match="holds no certificates"):
        SoftwareSigner.load(tmp_path / "issuer-cert.pem", tmp_path / "issuer-key.pem")
    with pytest.raises(InvalidValueError, match="empty"):
        SoftwareSigner([], key())
