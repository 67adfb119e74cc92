"""Renewal by certificate, over real TLS: who gets it, who does not, and how far it goes without a token."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca.attestation import read_attested_at
from meshpki.ca.audit.record import RecordKind
from meshpki.ca.audit.verify import tail, verify
from meshpki.ca.config import ProfileSettings, RenewalSettings
from meshpki.ca.config_values import HostPort, Seconds
from meshpki.ca.credential import CredentialKind
from meshpki.ca.keys import KeyKind, generate, spki_of
from meshpki.ca.reasons import CsrReason, IdentityReason, LifetimeReason, PeerReason
from meshpki.ca.server.ca_server import CaServer
from meshpki.ca.server.calls.methods import anyone
from meshpki.ca.server.metrics import Outcome
from meshpki.ca.server.serving_certificate import ServingCertificate
from meshpki.errors import MachineError
from meshpki.wire.methods import CREATE_CERTIFICATE, HEALTH_CHECK, HEALTH_WATCH, REPORT_BUNDLE
from meshpki.wire.trust_bundles_pb2 import ReportRequest
from support import ca_server, renewal
from support.authority import make_authority, make_csr
from support.ca_server import CallFailedError, RunningCa
from support.renewal import CertificateClient, Held, LeafShape, client_of, forge, issuing_of, obtain, renew, sibling_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki.ca.audit.record import AuditRecord

Code = grpc.StatusCode
DIGEST = "0f" * 32


@pytest.fixture
def ca(tmp_path: Path) -> Iterator[RunningCa]:
    with renewal.running(tmp_path) as running:
        yield running


def leaf(held: Held) -> x509.Certificate:
    return x509.load_pem_x509_certificate(held.chain[0].encode())


def ends(held: Held) -> float:
    return leaf(held).not_valid_after_utc.timestamp()


def attested(held: Held) -> int | None:
    return read_attested_at(leaf(held).extensions)


def uri(held: Held) -> str:
    names = leaf(held).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)[0]


def refused(call: Callable[[], object]) -> CallFailedError:
    with pytest.raises(CallFailedError) as caught:
        call()
    return caught.value


def verdict(call: Callable[[], object]) -> tuple[Code, str]:
    failed = refused(call)
    return failed.code, failed.reason


def records(ca: RunningCa, kind: RecordKind) -> list[AuditRecord]:
    ca_records = [line.record for line in tail(ca.config.audit, 1000)]
    return [record for record in ca_records if record.kind is kind]


def until(condition: Callable[[], object], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


# --- the tables


def test_the_tables_are_exactly_these_and_every_method_has_a_rule(ca: RunningCa) -> None:
    assert set(ca.server.tables[0].rows) == {CREATE_CERTIFICATE, REPORT_BUNDLE, HEALTH_CHECK, HEALTH_WATCH}
    assert set(ca.server.tables[1].rows) == {CREATE_CERTIFICATE, REPORT_BUNDLE}
    for table in ca.server.tables:
        open_to_all = {path for path, row in table.rows.items() if row.method.rule is anyone}
        assert open_to_all <= {HEALTH_CHECK, HEALTH_WATCH}


@pytest.mark.parametrize("path", [HEALTH_CHECK, HEALTH_WATCH, "/", "/meshpki.agent.v1.TrustBundles/List"])
def test_the_listener_for_certificates_knows_nothing_else(ca: RunningCa, path: str) -> None:
    with client_of(ca, obtain(ca)) as client:
        assert refused(lambda: client.raw(path, b"")).code is Code.UNIMPLEMENTED


# --- what it gives


def test_a_new_key_and_the_same_identity_without_a_token(ca: RunningCa) -> None:
    began = int(time.time())
    first = obtain(ca, namespace="shop", name="cart")
    second = renew(ca, first)
    third = renew(ca, second, ttl=60)
    assert uri(first) == uri(second) == uri(third) == "spiffe://mesh.local/ns/shop/sa/cart"
    assert len({spki_of(each.key.public_key()) for each in (first, second, third)}) == 3
    for held in (second, third):
        assert leaf(held).public_key() == held.key.public_key()
        assert attested(held) == attested(first)
    assert began + 3600 <= ends(second) <= time.time() + 3600
    assert began + 60 <= ends(third) <= time.time() + 60


def test_an_rsa_key_may_follow_an_elliptic_one_and_the_old_one_may_stay(ca: RunningCa) -> None:
    held = obtain(ca)
    with client_of(ca, held) as client:
        other = generate(KeyKind.RSA_2048)
        assert client.request((), csr=make_csr(other))
        assert client.request((), csr=make_csr(held.key))


def test_it_is_on_record_with_what_it_rests_on(ca: RunningCa) -> None:
    first = obtain(ca)
    second = renew(ca, first)
    of_token, of_certificate = records(ca, RecordKind.ISSUED)
    assert (of_token.renewed_from, of_certificate.renewed_from) == ("", f"{leaf(first).serial_number:x}")
    assert of_certificate.attested_at == of_token.attested_at != ""
    assert of_certificate.serial == f"{leaf(second).serial_number:x}"
    assert (of_certificate.namespace, of_certificate.service_account) == ("default", "web")
    assert of_certificate.cluster == of_certificate.pod_uid == of_certificate.jti == ""
    assert verify(ca.config.audit).intact


def test_metrics_tell_the_kinds_of_credential_apart(ca: RunningCa) -> None:
    renew(ca, obtain(ca))
    metrics = ca.server.metrics
    assert metrics.count(Outcome.ISSUED, CredentialKind.TOKEN) == 1
    assert metrics.count(Outcome.ISSUED, CredentialKind.CERTIFICATE) == 1
    assert metrics.count(Outcome.ISSUED) == 2
    page = ca.http("/metrics")[1]
    assert 'meshpki_ca_requests{credential="certificate",outcome="issued"} 1.0' in page
    assert "citadel_server_success_cert_issuance_count 2.0" in page


# --- the bound


class Clock:
    """Of the server alone, for both its clients and TLS go by the true one: so it is no more ahead of that than
    certificates are backdated.
    """

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """By which calls come, and certificates are made."""
    made = Clock()
    monkeypatch.setattr("meshpki.ca.server.calls.reception.time", SimpleNamespace(time=made, monotonic=time.monotonic))
    return made


def test_the_bound_ends_a_certificate_and_then_only_a_token_helps(tmp_path: Path, clock: Clock) -> None:
    with renewal.running(tmp_path, ttl=1200, without_token=1300) as ca:
        first = obtain(ca)
        began = attested(first)
        assert began is not None
        clock.ahead = 110.0
        second = renew(ca, first)
        assert ends(second) == began + 1300
        assert verdict(lambda: renew(ca, second)) == (Code.PERMISSION_DENIED, LifetimeReason.TOKEN_NEEDED)
        third = obtain(ca)
        assert (attested(third) or 0) > began
        assert attested(renew(ca, third)) == attested(third)
        (record,) = [each for each in noted(ca) if each.reason == LifetimeReason.TOKEN_NEEDED]
        assert record.renewed_from == f"{leaf(second).serial_number:x}"
        assert ca.server.metrics.count(Outcome.AUTHENTICATION, CredentialKind.CERTIFICATE) == 1


def noted(ca: RunningCa) -> list[AuditRecord]:
    until(lambda: records(ca, RecordKind.REFUSED))
    return records(ca, RecordKind.REFUSED)


def test_a_token_whose_certificate_was_renewed_starts_the_bound_again(ca: RunningCa) -> None:
    before = int(time.time())
    first = obtain(ca, now=time.time() - 1800)
    assert before <= (attested(first) or 0) <= time.time(), "when the token was verified, not when it was made"


def test_a_certificate_from_before_it_was_switched_on_needs_a_token(tmp_path: Path) -> None:
    authority = make_authority()
    with ca_server.running(tmp_path / "off", authority=authority) as off:
        old = obtain(off)
        assert attested(old) is None
        assert len(leaf(old).extensions) == 6
        assert off.server.renewal_address == ""
        assert len(off.server.tables) == 1
        assert all(not record.attested_at for record in records(off, RecordKind.ISSUED))
    with renewal.running(tmp_path / "on", authority=authority) as on:
        assert verdict(lambda: renew(on, old)) == (Code.PERMISSION_DENIED, LifetimeReason.TOKEN_NEEDED)


def test_a_bound_that_was_lowered_holds_for_what_is_out_already(tmp_path: Path) -> None:
    authority = make_authority()
    with renewal.running(tmp_path / "long", authority=authority) as long:
        held = obtain(long)
    with renewal.running(tmp_path / "short", authority=authority, ttl=5, without_token=10) as short:
        assert verdict(lambda: renew(short, held)) == (Code.PERMISSION_DENIED, LifetimeReason.TOKEN_NEEDED)


# --- nobody else, and nothing else


def test_no_certificate_at_all_does_not_get_through_the_handshake(ca: RunningCa) -> None:
    client = CertificateClient(ca.server.renewal_address, ca.authority.root_pem, None, None)
    assert refused(client.request_nothing).code is Code.UNAVAILABLE
    client.close()


def test_the_listener_for_tokens_takes_no_certificate(ca: RunningCa) -> None:
    held = obtain(ca)
    client = CertificateClient(ca.server.address, ca.authority.root_pem, held.presented, held.key)
    assert verdict(lambda: client.request(())) == (Code.UNAUTHENTICATED, "token_missing")
    client.close()


def test_the_listener_for_certificates_takes_no_token(ca: RunningCa) -> None:
    token = ca.maker.token(now=time.time())
    with client_of(ca, obtain(ca)) as client:
        assert verdict(lambda: client.sign(token)) == (Code.UNAUTHENTICATED, PeerReason.WITH_TOKEN)
        assert client.request(())


WRONG = [
    (LeafShape(uris=("spiffe://other.local/ns/default/sa/web",)), PeerReason.OTHER_TRUST_DOMAIN),
    (LeafShape(uris=("spiffe://mesh.local/workload",)), PeerReason.NOT_A_WORKLOAD),
    (LeafShape(uris=("spiffe://mesh.local/ns/a/sa/b", "spiffe://mesh.local/ns/c/sa/d")), PeerReason.NOT_AN_SVID),
    (LeafShape(uris=(), dns=("web.default",)), PeerReason.NOT_AN_SVID),
    (LeafShape(purposes=()), PeerReason.NO_CLIENT_AUTH),
    (LeafShape(cert_sign=None), PeerReason.NOT_A_LEAF),
    (LeafShape(ca=None), PeerReason.NOT_A_LEAF),
    (LeafShape(attested=b"\x04\x00"), PeerReason.MALFORMED),
]


@pytest.mark.parametrize(("shape", "reason"), WRONG)
def test_what_tls_lets_pass_and_we_do_not(ca: RunningCa, shape: LeafShape, reason: PeerReason) -> None:
    """Signed by our own issuing key, each of them: TLS is content, the handler is not."""
    before = len(records(ca, RecordKind.ISSUED))
    held = forge(issuing_of(ca.authority), shape)
    assert verdict(lambda: renew(ca, held)) == (Code.UNAUTHENTICATED, reason)
    assert verdict(lambda: report(ca, held)) == (Code.UNAUTHENTICATED, reason)
    assert len(records(ca, RecordKind.ISSUED)) == before
    assert {record.reason for record in noted(ca)} == {reason}


def test_a_good_one_made_the_same_way_passes(ca: RunningCa) -> None:
    assert len(renew(ca, forge(issuing_of(ca.authority), LeafShape())).chain) == 3


def test_another_authority_under_the_same_root_does_not_issue_for_us(ca: RunningCa) -> None:
    held = forge(sibling_of(ca.authority), LeafShape())
    assert verdict(lambda: renew(ca, held)) == (Code.UNAUTHENTICATED, PeerReason.UNKNOWN_ISSUER)


@pytest.mark.parametrize(
    "make",
    [
        lambda ca: forge(issuing_of(make_authority()), LeafShape()),
        lambda ca: forge(issuing_of(ca.authority), LeafShape(begins=-600, ends=-5)),
        lambda ca: forge(issuing_of(ca.authority), LeafShape(begins=600, ends=1200)),
        lambda ca: forge(issuing_of(ca.authority), LeafShape(purposes=(ExtendedKeyUsageOID.SERVER_AUTH,))),
        lambda ca: forge(issuing_of(ca.authority), LeafShape(digital_signature=False)),
        lambda ca: Held(ca.authority.issuer.chain_elements, ca.authority.hierarchy.issuer.key),
        lambda ca: Held((ca.authority.root_pem.decode(), ""), ca.authority.hierarchy.root.key),
    ],
    ids=["other CA", "expired", "not yet valid", "server's", "no signatures", "the issuer itself", "the root itself"],
)
def test_what_does_not_even_get_through_the_handshake(ca: RunningCa, make: Callable[[RunningCa], Held]) -> None:
    held = make(ca)
    assert refused(lambda: renew(ca, held)).code is Code.UNAVAILABLE
    assert not records(ca, RecordKind.ISSUED)


def test_the_cas_own_serving_leaf_is_no_credential(ca: RunningCa) -> None:
    pair = ServingCertificate(ca.authority.issuer, ["localhost"]).pair(time.time())
    client = CertificateClient(ca.server.renewal_address, ca.authority.root_pem, pair.chain_pem, None)
    client.use_key(pair.key_pem)
    assert refused(client.request_nothing).code is Code.UNAVAILABLE
    client.close()


def test_a_connection_does_not_outlive_its_certificate(ca: RunningCa, clock: Clock) -> None:
    held = obtain(ca)
    with client_of(ca, held) as client:
        assert client.request(())
        clock.ahead = 3601.0
        assert verdict(lambda: client.request(())) == (Code.UNAUTHENTICATED, PeerReason.EXPIRED)


@pytest.mark.parametrize(
    "wish", ["spiffe://mesh.local/ns/kube-system/sa/admin", "spiffe://mesh.local/ns/default/sa/api"]
)
def test_no_other_identity_can_be_asked_for(ca: RunningCa, wish: str) -> None:
    held = obtain(ca)
    names = [x509.UniformResourceIdentifier(wish)]
    csr = make_csr(extensions=[(x509.SubjectAlternativeName(names), True), (x509.BasicConstraints(True, None), True)])
    with client_of(ca, held) as client:
        failed = refused(lambda: client.request((), ImpersonatedIdentity=wish))
        assert (failed.code, failed.reason) == (Code.PERMISSION_DENIED, IdentityReason.IMPERSONATION)
        assert uri(Held(tuple(client.request((), csr=csr)), held.key)) == uri(held)
        assert verdict(lambda: client.request((), csr="nothing")) == (Code.INVALID_ARGUMENT, CsrReason.NOT_PEM)


def test_a_certificate_without_its_key_is_worth_nothing(ca: RunningCa) -> None:
    stolen = replace(obtain(ca), key=generate(KeyKind.EC_P256))
    assert refused(lambda: renew(ca, stolen)).code is Code.UNAVAILABLE


def test_a_stolen_pair_renews_as_its_owner_would_and_leaves_its_trace(tmp_path: Path, clock: Clock) -> None:
    """What we cannot prevent: with certificate and key a thief is the workload, until the bound. The log shows both."""
    with renewal.running(tmp_path, ttl=1200, without_token=1300) as ca:
        stolen = obtain(ca)
        owners, thiefs = renew(ca, stolen), renew(ca, stolen)
        assert attested(thiefs) == attested(owners) == attested(stolen)
        began = attested(stolen) or 0
        clock.ahead = 110.0
        last = renew(ca, thiefs)
        assert ends(last) == began + 1300
        assert refused(lambda: renew(ca, last)).code is Code.PERMISSION_DENIED
        twice = [record.renewed_from for record in records(ca, RecordKind.ISSUED)]
        assert twice.count(f"{leaf(stolen).serial_number:x}") == 2, (
            "one certificate, renewed twice: somebody has a copy"
        )


def test_a_port_that_is_taken_is_told_by_its_key_and_nothing_is_left_running(tmp_path: Path) -> None:
    with ca_server.running(tmp_path / "one") as one:
        config = replace(
            ca_server.make_config(tmp_path / "two"),
            profile=ProfileSettings(Seconds(60), Seconds(60)),
            renewal=RenewalSettings(HostPort.parse(one.server.address)),
        )
        failed = CaServer(config)
        with pytest.raises(MachineError, match="could not listen") as caught:
            failed.start()
        assert "`renewal.listen`" in caught.value.todo
        # The first port was bound by then: somebody else can have it, with `failed` still there.
        first = HostPort.parse(failed.address)
        good = replace(config, listen=first, renewal=RenewalSettings(HostPort("127.0.0.1", 0)))
        with CaServer(good) as server:
            assert server.address == str(first)
            assert server.renewal_address.startswith("127.0.0.1:")


# --- reports


def report(ca: RunningCa, held: Held, digest: str = DIGEST, sequence: int = 1) -> bytes:
    with client_of(ca, held) as client:
        return client.raw(REPORT_BUNDLE, ReportRequest(digest=digest, sequence=sequence, roots=2).SerializeToString())


def report_by_token(ca: RunningCa, request: ReportRequest | None = None, **claims: object) -> bytes:
    token = ca.maker.token(now=time.time(), **claims)
    metadata = (("authorization", f"Bearer {token.decode()}"),)
    request = request or ReportRequest(digest=DIGEST, sequence=1, roots=1)
    return ca.client.raw(REPORT_BUNDLE, request.SerializeToString(), metadata)


def listed(ca: RunningCa) -> list[dict[str, object]]:
    status, text = ca.http("/bundles")
    assert status == 200
    found: list[dict[str, object]] = json.loads(text)["reports"]
    return found


def test_reports_are_shown_by_who_made_them(ca: RunningCa) -> None:
    held = obtain(ca, name="api")
    assert report_by_token(ca) == report(ca, held, "aa" * 32, sequence=7) == b""
    by_certificate, by_token = listed(ca)
    assert by_token.pop("at")
    assert by_token == {
        "cluster": "cluster-0",
        "namespace": "default",
        "service_account": "web",
        "instance": "pod:0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e",
        "digest": DIGEST,
        "sequence": 1,
        "roots": 1,
    }
    assert (by_certificate["service_account"], by_certificate["sequence"]) == ("api", 7)
    assert by_certificate["instance"] == f"serial:{leaf(held).serial_number:x}"
    assert f'meshpki_ca_bundle_holders{{digest="{DIGEST}"}} 1.0' in ca.http("/metrics")[1]


def test_the_last_report_of_an_agent_counts(ca: RunningCa) -> None:
    report_by_token(ca)
    report_by_token(ca, ReportRequest(digest="bb" * 32, sequence=2, roots=2))
    (only,) = listed(ca)
    assert (only["digest"], only["sequence"], only["roots"]) == ("bb" * 32, 2, 2)


def test_reports_need_no_renewal_and_a_token_as_any_other_call(tmp_path: Path) -> None:
    with ca_server.running(tmp_path) as ca:
        assert listed(ca) == []
        report_by_token(ca)
        assert len(listed(ca)) == 1
        late = ca.maker.token(now=time.time() - 7200)
        for metadata, reason in (
            ((), "token_missing"),
            ((("authorization", f"Bearer {late.decode()}"),), "token_expired"),
        ):
            request = ReportRequest(digest="cc" * 32, sequence=1, roots=1).SerializeToString()
            assert verdict(lambda: ca.client.raw(REPORT_BUNDLE, request, metadata)) == (Code.UNAUTHENTICATED, reason)  # noqa: B023
        assert len(listed(ca)) == 1
        assert 'meshpki_ca_bundle_reports_refused{reason="token_missing"} 1.0' in ca.http("/metrics")[1]
        assert "citadel_server_csr_count 0.0" in ca.http("/metrics")[1], "a report is no request for a certificate"
        until(lambda: len(records(ca, RecordKind.REFUSED)) == 2)
        assert {record.detail for record in records(ca, RecordKind.REFUSED)} == {"report"}


def test_a_certificate_at_its_bound_may_still_report(tmp_path: Path) -> None:
    with renewal.running(tmp_path, ttl=600, without_token=601) as ca:
        held = forge(issuing_of(ca.authority), LeafShape(ends=601))
        assert refused(lambda: renew(ca, held)).code is Code.PERMISSION_DENIED
        report(ca, held)
        assert len(listed(ca)) == 1


@pytest.mark.parametrize(
    ("request_bytes", "reason"),
    [
        (b"\xff", "request_malformed"),
        (b"", "report_digest_malformed"),
        (ReportRequest(digest=DIGEST.upper(), roots=1).SerializeToString(), "report_digest_malformed"),
        (ReportRequest(digest=DIGEST + "\n", roots=1).SerializeToString(), "report_digest_malformed"),
        (ReportRequest(digest=DIGEST[:-1] + '"', roots=1).SerializeToString(), "report_digest_malformed"),
        (ReportRequest(digest=DIGEST, roots=0).SerializeToString(), "report_roots_out_of_range"),
        (ReportRequest(digest=DIGEST, roots=1001).SerializeToString(), "report_roots_out_of_range"),
    ],
)
def test_a_report_that_makes_no_sense(ca: RunningCa, request_bytes: bytes, reason: str) -> None:
    token = ca.maker.token(now=time.time()).decode()
    metadata = (("authorization", f"Bearer {token}"),)
    call = lambda: ca.client.raw(REPORT_BUNDLE, request_bytes, metadata)  # noqa: E731
    assert verdict(call) == (Code.INVALID_ARGUMENT, reason)
    assert listed(ca) == []


def test_a_report_ends_with_the_certificate_that_vouched_for_it(tmp_path: Path) -> None:
    clock = Clock()
    with renewal.running(tmp_path, clock=clock) as ca:
        held = obtain(ca, ttl=60)
        report(ca, held)
        clock.ahead = ends(held) - time.time() - 60.0
        assert len(listed(ca)) == 1
        clock.ahead = ends(held) - time.time() + 1.0
        assert not listed(ca)
