"""What the running server refuses, over real TLS: each case with its own status and reason, and no certificate."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from meshpki.ca import der, pem
from meshpki.ca.csr import LABEL, read_csr
from meshpki.ca.reasons import CsrRefusedError
from meshpki.ca.server.metrics import Outcome
from meshpki.wire.istio_ca_pb2 import IstioCertificateRequest
from meshpki.wire.methods import CREATE_CERTIFICATE
from support.authority import make_csr
from support.ca_server import CallFailedError, RunningCa, failures, running
from support.csr_forms import BASIC_CONSTRAINTS, VECTORS, VERDICTS, vector, vector_der, with_extensions
from support.tokens import BrokenToken, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Metadata = Sequence[tuple[str, str | bytes]]

Code = grpc.StatusCode
BROKEN = [broken for broken in TokenMaker().broken(time.time()) if broken.name not in {"empty", "one mebibyte"}]
SENDABLE = [broken for broken in BROKEN if all(0x20 <= byte < 0x7F for byte in broken.token)]
OTHER = TokenMaker(issuer="https://other-cluster.test", slot=7)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCa]:
    with running(tmp_path_factory.mktemp("ca"), OTHER) as server:
        yield server


@pytest.fixture
def token(ca: RunningCa) -> bytes:
    return ca.maker.token(now=time.time())


def refused(ca: RunningCa, code: Code, reason: str, metadata: Metadata, csr: str | None = None, **fields: str) -> str:
    """Make the call; the details of the refusal, which must be this one, and be counted under its reason."""
    before = ca.server.metrics.count(Outcome.ISSUED)
    with pytest.raises(CallFailedError) as caught:
        ca.client.request(metadata, csr=csr, ttl=0, **fields)
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert ca.server.metrics.count(Outcome.ISSUED) == before
    if code is not Code.RESOURCE_EXHAUSTED:
        assert f'meshpki_ca_failures{{reason="{reason}"}}' in ca.http("/metrics")[1]
    return caught.value.details


def bearer(token: bytes) -> tuple[tuple[str, str]]:
    return (("authorization", "Bearer " + token.decode("ascii")),)


def test_a_good_request_gets_a_certificate(ca: RunningCa, token: bytes) -> None:
    chain = ca.client.sign(token)
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://mesh.local/ns/default/sa/web"]
    assert chain[-1].encode() == ca.authority.root_pem
    assert all(element.endswith("\n") and element.count("BEGIN") == 1 for element in chain)


@pytest.fixture(scope="module")
def broken_now() -> dict[str, BrokenToken]:
    """Made when they are needed: a token of ten minutes ahead is a good one at the end of a long run."""
    return {broken.name: broken for broken in TokenMaker().broken(time.time())}


@pytest.mark.parametrize("name", [broken.name for broken in SENDABLE])
def test_every_broken_token(ca: RunningCa, broken_now: dict[str, BrokenToken], name: str) -> None:
    broken = broken_now[name]
    details = refused(ca, Code.UNAUTHENTICATED, broken.reason, bearer(broken.token))
    assert not any(part.decode() in details for part in broken.token.split(b".") if len(part) > 8)


def test_the_list_of_broken_tokens_is_nearly_all_sendable() -> None:
    assert len(BROKEN) - len(SENDABLE) <= 1
    assert len(SENDABLE) > 70


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "token_missing"),
        ((("authorization", "Bearer "),), "token_missing"),
        ((("authorization", "bearer x"),), "token_malformed"),
        ((("authorization", "Basic eDp5"),), "token_malformed"),
        ((("authorization", "Istio x"),), "token_malformed"),
        ((("authorization", "Bearer a"), ("authorization", "Bearer b")), "token_several"),
        ((("authorization", "Bearer a, Bearer b"),), "token_malformed"),
        ((("x-authorization", "Bearer a"),), "token_missing"),
        ((("authorization-bin", b"Bearer a"),), "token_missing"),
        ((("authorization", "Bearer " + "A" * 9000),), "token_too_large"),
    ],
    ids=str,
)
def test_every_wrong_header(ca: RunningCa, metadata: Sequence[tuple[str, str | bytes]], reason: str) -> None:
    refused(ca, Code.UNAUTHENTICATED, reason, metadata)


def test_a_good_token_beside_another_header_is_refused(ca: RunningCa, token: bytes) -> None:
    refused(ca, Code.UNAUTHENTICATED, "token_several", (*bearer(token), *bearer(token)))


def test_a_token_of_one_mebibyte_never_reaches_us(ca: RunningCa) -> None:
    with pytest.raises(CallFailedError) as caught:
        ca.client.sign(b"A" * (1 << 20))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED


def test_another_clusters_key_under_the_same_kid(ca: RunningCa) -> None:
    ours = TokenMaker()
    assert OTHER.kid == ours.kid
    forged = OTHER.sign(ours.claims(now=time.time()))
    refused(ca, Code.UNAUTHENTICATED, "token_bad_signature", bearer(forged))
    assert len(ca.client.sign(OTHER.token(now=time.time()))) >= 2


def test_a_client_cannot_choose_the_cluster(ca: RunningCa) -> None:
    forged = OTHER.sign(TokenMaker().claims(now=time.time()))
    refused(ca, Code.UNAUTHENTICATED, "token_bad_signature", (*bearer(forged), ("clusterid", "cluster-1")))


def test_audience_and_both_clocks_are_named(ca: RunningCa) -> None:
    other = TokenMaker().token(now=time.time(), audience=["https://kubernetes.default.svc"])
    details = refused(ca, Code.UNAUTHENTICATED, "token_wrong_audience", bearer(other))
    assert "https://kubernetes.default.svc" in details
    assert "istio-ca" in details
    details = refused(ca, Code.UNAUTHENTICATED, "token_expired", bearer(TokenMaker().token(now=time.time() - 90_000)))
    assert details.count("20") >= 2


# --- requests


def csr_with(key: object, **options: object) -> str:
    return make_csr(key, **options)  # type: ignore[arg-type]


def tampered_csr() -> str:
    request = bytearray(x509.load_pem_x509_csr(make_csr().encode()).public_bytes(Encoding.DER))
    request[-1] ^= 1
    import base64

    body = base64.encodebytes(bytes(request)).decode().replace("\n", "")
    lines = "\n".join(body[at : at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN CERTIFICATE REQUEST-----\n{lines}\n-----END CERTIFICATE REQUEST-----\n"


def ed448_csr() -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(ed448.Ed448PrivateKey.generate(), None).public_bytes(Encoding.PEM).decode()


def names(count: int) -> tuple[x509.SubjectAlternativeName, bool]:
    return x509.SubjectAlternativeName([x509.DNSName(f"n{number}.test") for number in range(count)]), False


@pytest.mark.parametrize(
    ("csr", "reason"),
    [
        ("", "csr_not_pem"),
        ("nonsense", "csr_not_pem"),
        ("\x00" * 100, "csr_not_pem"),
        ("-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "csr_malformed"),
        (make_csr() + make_csr(), "csr_not_pem"),
        (tampered_csr(), "csr_bad_signature"),
        (
            csr_with(rsa.generate_private_key(65537, 1024)),  # noqa: S505
            "csr_key_not_allowed",
        ),
        (csr_with(ec.generate_private_key(ec.SECP192R1())), "csr_key_not_allowed"),
        (csr_with(ec.generate_private_key(ec.SECP521R1())), "csr_key_not_allowed"),
        (ed448_csr(), "csr_key_not_allowed"),
        (csr_with(None, extensions=[names(1500)]), "csr_too_large"),
        (with_extensions(BASIC_CONSTRAINTS, BASIC_CONSTRAINTS), "csr_duplicate_extension"),
        (with_extensions(der.extension("2.5.29.17", b"\x30\x82\xff\xff")), "csr_extension_malformed"),
    ],
    ids=[
        "empty",
        "no PEM",
        "zeros",
        "no DER",
        "two",
        "tampered",
        "RSA 1024",
        "P-192",
        "P-521",
        "ed448",
        "1500 SANs",
        "an extension twice",
        "an extension of no form",
    ],
)
def test_every_bad_csr(ca: RunningCa, token: bytes, csr: str, reason: str) -> None:
    refused(ca, Code.INVALID_ARGUMENT, reason, bearer(token), csr=csr)


@pytest.mark.parametrize("name", VECTORS)
def test_each_vector_has_its_verdict(ca: RunningCa, token: bytes, name: str) -> None:
    """As one strict block, and as its file has it; whatever is not given a certificate is refused for a reason."""
    for csr in (pem.encode(vector_der(name), LABEL), vector(name).decode("latin-1")):
        try:
            key = read_csr(csr)
        except CsrRefusedError as error:
            assert error.reason in {VERDICTS[name], "csr_not_pem"}
            refused(ca, Code.INVALID_ARGUMENT, error.reason, bearer(token), csr=csr)
        else:
            assert key.kind == VERDICTS[name]
            leaf = x509.load_pem_x509_certificate(ca.client.sign(token, csr=csr)[0].encode())
            assert leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key.spki


def test_sixty_thousand_names_never_reach_us(ca: RunningCa, token: bytes) -> None:
    csr = csr_with(None, extensions=[names(60_000)])
    assert len(csr) > 1_000_000
    refused(ca, Code.RESOURCE_EXHAUSTED, "SERVER", bearer(token), csr=csr)
    assert len(ca.client.sign(token)) >= 2


def test_what_a_csr_asks_for_beside_its_key_is_not_given(ca: RunningCa, token: bytes) -> None:
    wishes = [
        (x509.BasicConstraints(ca=True, path_length=None), True),
        (
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://mesh.local/ns/kube-system/sa/root")]),
            True,
        ),
    ]
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "admin")])
    chain = ca.client.sign(token, csr=csr_with(None, subject=subject, extensions=wishes))
    leaf = x509.load_pem_x509_certificate(chain[0].encode())
    found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in found] == ["spiffe://mesh.local/ns/default/sa/web"]
    assert not leaf.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert not list(leaf.subject)
    assert isinstance(leaf.signature_hash_algorithm, hashes.SHA256)


@pytest.mark.parametrize(
    ("identity", "code", "reason"),
    [
        ("spiffe://mesh.local/ns/default/sa/api", Code.PERMISSION_DENIED, "identity_impersonation"),
        ("spiffe://other.local/ns/default/sa/web", Code.PERMISSION_DENIED, "identity_impersonation"),
        ("default/api", Code.INVALID_ARGUMENT, "identity_malformed"),
    ],
)
def test_nobody_gets_another_identity(ca: RunningCa, token: bytes, identity: str, code: Code, reason: str) -> None:
    refused(ca, code, reason, bearer(token), ImpersonatedIdentity=identity)


def test_other_metadata_is_tolerated(ca: RunningCa, token: bytes) -> None:
    chain = ca.client.request((*bearer(token), ("clusterid", "Kubernetes")), CertSigner="", WorkloadName="x")
    assert len(chain) >= 2
    old = IstioCertificateRequest(csr=make_csr()).SerializeToString() + b"\x12\x03abc"  # field 2 of Istio 1.3
    assert ca.client.raw(CREATE_CERTIFICATE, old, bearer(token))


@pytest.mark.parametrize("request_bytes", [b"\xff\xff\xff", b"\x0a\xff", b"\x0a\x02\xff\xfe"])
def test_bytes_that_are_no_request(ca: RunningCa, token: bytes, request_bytes: bytes) -> None:
    with pytest.raises(CallFailedError) as caught:
        ca.client.raw(CREATE_CERTIFICATE, request_bytes, bearer(token))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.reason == "request_malformed"


def test_a_call_that_ends_without_a_request(ca: RunningCa, token: bytes) -> None:
    method: grpc.StreamUnaryMultiCallable[bytes, bytes] = ca.client.channel.stream_unary(CREATE_CERTIFICATE)
    with pytest.raises(CallFailedError) as caught, failures():
        method(iter(()), metadata=bearer(token), timeout=60)
    assert caught.value.reason == "request_missing"


def test_refusals_are_in_the_audit_log_with_reason_and_caller(ca: RunningCa, token: bytes) -> None:
    refused(
        ca,
        Code.PERMISSION_DENIED,
        "identity_impersonation",
        bearer(token),
        ImpersonatedIdentity="spiffe://mesh.local/x",
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        log = ca.config.audit.read_text().splitlines()
        found = [line for line in log if "identity_impersonation" in line]
        if found:
            break
        time.sleep(0.05)
    assert '"kind":"refused"' in found[-1]
    assert '"service_account":"web"' in found[-1]
    assert '"peer":"ipv4:127.0.0.1:' in found[-1]
