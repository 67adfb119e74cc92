"""A client certificate as a credential: one that is right, and every way in which one can be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca import der, pem
from meshpki.ca.issue import issue
from meshpki.ca.keys import KeyKind
from meshpki.ca.peer import MAX_CERTIFICATE_BYTES, Peer, check_peer
from meshpki.ca.prepare import prepare
from meshpki.ca.profile import Profile
from meshpki.ca.reasons import PeerReason, PeerRefusedError
from meshpki.ca.server.serving_certificate import ServingCertificate
from meshpki.identity import ServiceAccountRef, SpiffeId, TrustDomain
from support.authority import MESH, NOW, TestAuthority, csr_key, make_authority
from support.renewal import LeafShape, forge, issuing_of, sibling_of

WEB = ServiceAccountRef("default", "web")
GOOD = LeafShape()


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return make_authority(now=NOW)


def judge(authority: TestAuthority, text: bytes | str, *, now: float = NOW, trust_domain: TrustDomain = MESH) -> Peer:
    data = text.encode() if isinstance(text, str) else text
    return check_peer(data, authority.issuer.certificates[0], trust_domain, now)


def judge_shape(authority: TestAuthority, shape: LeafShape, *, now: float = NOW) -> Peer:
    return judge(authority, forge(issuing_of(authority), shape, now=NOW).chain[0], now=now)


def refusal(authority: TestAuthority, text: bytes | str, *, now: float = NOW) -> PeerReason:
    with pytest.raises(PeerRefusedError) as caught:
        judge(authority, text, now=now)
    assert "token" in caught.value.todo
    return caught.value.reason


@pytest.mark.parametrize("signing", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.RSA_2048])
def test_what_the_ca_issues_is_a_credential(kind: KeyKind, signing: KeyKind) -> None:
    authority = make_authority(key_type=signing, now=NOW)
    profile = Profile(MESH, default_ttl_seconds=600, max_ttl_seconds=600, max_without_token_seconds=6000)
    answer = issue(
        prepare(
            authority.issuer,
            profile,
            SpiffeId.for_service_account(MESH, WEB),
            csr_key(kind),
            requested_seconds=0,
            token_expires_at=None,
            now=NOW,
            serial=77,
            attested_at=NOW - 30,
        )
    )
    assert judge(authority, answer.leaf_pem) == Peer(WEB, 77, NOW + 600, NOW - 30)


def test_one_without_attestation_is_a_credential_too(authority: TestAuthority) -> None:
    """It says who somebody is: that it may not be renewed is another rule's to say."""
    assert judge(authority, authority.issue("default/web", now=NOW).leaf_pem).attested_at is None


def test_the_shape_that_the_others_differ_from_is_good(authority: TestAuthority) -> None:
    assert judge_shape(authority, GOOD) == Peer(WEB, GOOD.serial, NOW + 600, NOW)


SPIFFE = "spiffe://mesh.local"


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (replace(GOOD, ca=True), PeerReason.NOT_A_LEAF),
        (replace(GOOD, ca=None), PeerReason.NOT_A_LEAF),
        (replace(GOOD, cert_sign=True), PeerReason.NOT_A_LEAF),
        (replace(GOOD, cert_sign=None), PeerReason.NOT_A_LEAF),
        (replace(GOOD, digital_signature=False), PeerReason.NOT_A_LEAF),
        (replace(GOOD, purposes=()), PeerReason.NO_CLIENT_AUTH),
        (replace(GOOD, purposes=(ExtendedKeyUsageOID.SERVER_AUTH,)), PeerReason.NO_CLIENT_AUTH),
        (replace(GOOD, purposes=(ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)), PeerReason.NO_CLIENT_AUTH),
        (replace(GOOD, begins=-600, ends=-1), PeerReason.EXPIRED),
        (replace(GOOD, begins=1), PeerReason.NOT_YET_VALID),
        (replace(GOOD, uris=()), PeerReason.NOT_AN_SVID),
        (replace(GOOD, uris=(), dns=("web.default",)), PeerReason.NOT_AN_SVID),
        (replace(GOOD, dns=("web.default",)), PeerReason.NOT_AN_SVID),
        (replace(GOOD, uris=(f"{SPIFFE}/ns/default/sa/web", f"{SPIFFE}/ns/x/sa/y")), PeerReason.NOT_AN_SVID),
        (replace(GOOD, uris=("https://mesh.local/ns/default/sa/web",)), PeerReason.NOT_AN_SVID),
        (replace(GOOD, uris=("SPIFFE://mesh.local/ns/default/sa/web",)), PeerReason.NOT_AN_SVID),
        (replace(GOOD, uris=(f"{SPIFFE}/ns/default/sa/../sa/web",)), PeerReason.NOT_AN_SVID),
        (replace(GOOD, uris=("spiffe://other.local/ns/default/sa/web",)), PeerReason.OTHER_TRUST_DOMAIN),
        (replace(GOOD, uris=("spiffe://mesh.local.evil/ns/default/sa/web",)), PeerReason.OTHER_TRUST_DOMAIN),
        (replace(GOOD, uris=(SPIFFE,)), PeerReason.NOT_A_WORKLOAD),
        (replace(GOOD, uris=(f"{SPIFFE}/ns/default",)), PeerReason.NOT_A_WORKLOAD),
        (replace(GOOD, uris=(f"{SPIFFE}/ns/default/sa/web/more",)), PeerReason.NOT_A_WORKLOAD),
        (replace(GOOD, uris=(f"{SPIFFE}/sa/web/ns/default",)), PeerReason.NOT_A_WORKLOAD),
        (replace(GOOD, uris=(f"{SPIFFE}/ns/Default/sa/web",)), PeerReason.NOT_A_WORKLOAD),
        (replace(GOOD, attested=b"\x18\x0f20270115080000+"), PeerReason.MALFORMED),
        (replace(GOOD, attested=der.integer(NOW)), PeerReason.MALFORMED),
    ],
)
def test_a_leaf_of_ours_with_one_thing_wrong(shape: LeafShape, reason: PeerReason, authority: TestAuthority) -> None:
    assert refusal(authority, forge(issuing_of(authority), shape, now=NOW).chain[0]) is reason


@pytest.mark.parametrize(
    ("seconds", "good"), [(-61, False), (-60, True), (600, True), (600.9, True), (601, False), (10**6, False)]
)
def test_our_clock_decides_to_the_second(seconds: float, good: bool, authority: TestAuthority) -> None:
    if good:
        judge_shape(authority, GOOD, now=NOW + seconds)
        return
    with pytest.raises(PeerRefusedError):
        judge_shape(authority, GOOD, now=NOW + seconds)


def test_only_what_the_issuing_key_signed(authority: TestAuthority) -> None:
    other = make_authority(now=NOW)
    sibling = sibling_of(authority)
    assert sibling.certificate.subject == authority.issuer.certificates[0].subject
    for issuing in (issuing_of(other), sibling):
        assert refusal(authority, forge(issuing, GOOD, now=NOW).chain[0]) is PeerReason.UNKNOWN_ISSUER


def test_one_bit_changed_is_not_what_was_signed(authority: TestAuthority) -> None:
    good = x509.load_pem_x509_certificate(forge(issuing_of(authority), GOOD, now=NOW).chain[0].encode())
    data = bytearray(good.public_bytes(Encoding.DER))
    at = data.index(b"/sa/web") + 4
    data[at : at + 3] = b"api"
    assert refusal(authority, pem.encode(bytes(data))) is PeerReason.UNKNOWN_ISSUER


def test_certificates_that_are_no_workloads(authority: TestAuthority) -> None:
    serving = ServingCertificate(authority.issuer, ["localhost"]).pair(NOW)
    leaf = serving.chain_pem.decode().split("-----END CERTIFICATE-----\n")[0] + "-----END CERTIFICATE-----\n"
    assert refusal(authority, leaf) is PeerReason.NO_CLIENT_AUTH
    issuer, root = authority.issuer.chain_elements
    assert refusal(authority, issuer) is PeerReason.UNKNOWN_ISSUER
    assert refusal(authority, root) is PeerReason.UNKNOWN_ISSUER


def test_a_root_that_issues_itself_is_no_workload_either() -> None:
    authority = make_authority(now=NOW)
    root = authority.hierarchy.root.certificate
    with pytest.raises(PeerRefusedError) as caught:
        check_peer(authority.root_pem, root, MESH, NOW)
    assert caught.value.reason is PeerReason.NOT_A_LEAF


def test_texts_that_are_no_certificate(authority: TestAuthority) -> None:
    good = forge(issuing_of(authority), GOOD, now=NOW).chain[0]
    assert refusal(authority, b"") is PeerReason.MISSING
    for text in (good + good, "x" + good, good.replace("CERTIFICATE", "X509 CRL"), good[:-40], "x" * 10):
        assert refusal(authority, text) is PeerReason.MALFORMED
    assert refusal(authority, good.encode() + b"\n" * MAX_CERTIFICATE_BYTES) is PeerReason.MALFORMED


@given(data=st.binary(max_size=400), at=st.integers(0, 700))
def test_whatever_the_bytes_the_answer_is_a_refusal(data: bytes, at: int, authority: TestAuthority) -> None:
    good = forge(issuing_of(authority), GOOD, now=NOW).chain[0].encode()
    for text in (data, good[:at] + data + good[at:]):
        if text.strip().translate(None, b"\r\n") == good.translate(None, b"\r\n"):
            continue  # where the lines break tells nothing
        with pytest.raises(PeerRefusedError):
            judge(authority, text)
