"""What others say of our certificates: pkilint, OpenSSL, the library's path validation, ztunnel and istio-agent."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.verification import PolicyBuilder, Store

from meshpki.ca.attestation import read_attested_at
from meshpki.ca.issue import issue
from meshpki.ca.keys import KeyKind
from meshpki.ca.prepare import prepare
from meshpki.ca.profile import Profile
from meshpki.ca.server.serving_certificate import ServingCertificate
from meshpki.identity import SpiffeId
from support.authority import MESH, NOW, TestAuthority, csr_key, key, make_authority, make_csr
from support.linted import findings

if TYPE_CHECKING:
    from pathlib import Path

URI = "spiffe://mesh.local/ns/default/sa/web"
RENEWING = Profile(MESH, default_ttl_seconds=3600, max_ttl_seconds=3600, max_without_token_seconds=86_400)


@lru_cache(maxsize=8)
def authority(kind: KeyKind) -> TestAuthority:
    return make_authority(key_type=kind, now=NOW)


def leaf(signing: KeyKind, kind: KeyKind, attested_at: int | None = None) -> x509.Certificate:
    return x509.load_pem_x509_certificate(chain(signing, kind, attested_at=attested_at)[0].encode())


def chain(
    signing: KeyKind,
    kind: KeyKind,
    uri: str = URI,
    ttl: int = 3600,
    now: int = NOW,
    attested_at: int | None = None,
) -> tuple[str, ...]:
    made = authority(signing)
    profile = made.profile if attested_at is None else RENEWING
    prepared = prepare(
        made.issuer,
        profile,
        SpiffeId.parse(uri),
        csr_key(kind),
        requested_seconds=ttl,
        token_expires_at=None,
        now=now,
        serial=2**126 + 7,
        attested_at=attested_at,
    )
    return issue(prepared).cert_chain


KINDS = [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072]


@pytest.mark.parametrize("signing", KINDS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("attested_at", [None, NOW - 5], ids=["plain", "with the time of its token"])
def test_pkilint_on_leaves(kind: KeyKind, signing: KeyKind, attested_at: int | None) -> None:
    judged = leaf(signing, kind, attested_at)
    assert read_attested_at(judged.extensions) == attested_at
    assert findings(judged) == []


def test_the_waiver_is_still_needed() -> None:
    assert len(findings(leaf(KeyKind.EC_P256, KeyKind.EC_P256), waive=False)) == 1


@pytest.mark.parametrize("ttl", [1, 86_400])
def test_pkilint_on_other_shapes(ttl: int) -> None:
    long = f"spiffe://mesh.local/ns/{'n' * 63}/sa/{'s' * 253}"
    judged = chain(KeyKind.EC_P256, KeyKind.EC_P256, long, ttl)[0]
    assert findings(x509.load_pem_x509_certificate(judged.encode())) == []


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.RSA_2048])
def test_pkilint_on_authorities_and_the_serving_leaf(kind: KeyKind) -> None:
    made = authority(kind)
    pair = ServingCertificate(made.issuer, ["ca.mesh.example", "127.0.0.1"]).pair(NOW)
    for judged in (*made.issuer.certificates, x509.load_pem_x509_certificates(pair.chain_pem)[0]):
        assert findings(judged) == []


def test_pkilint_does_find_faults() -> None:
    template = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(authority(KeyKind.EC_P256).hierarchy.issuer.certificate.subject)
        .serial_number(1)
        .not_valid_before(datetime.fromtimestamp(NOW, UTC))
        .not_valid_after(datetime.fromtimestamp(NOW + 60, UTC))
        .public_key(key().public_key())
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)]), critical=False)
    )
    assert any("subject" in found.lower() for found in findings(template.sign(key(), hashes.SHA256())))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl binary here")
@pytest.mark.parametrize("signing", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.RSA_3072])
def test_openssl_verifies(signing: KeyKind, kind: KeyKind, tmp_path: Path) -> None:
    elements = chain(signing, kind)
    for file, text in zip(("leaf", "middle", "root"), elements, strict=True):
        (tmp_path / file).write_text(text)
    for purpose in ("sslclient", "sslserver"):
        command = ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-attime", str(NOW)]
        command += ["-CAfile", str(tmp_path / "root"), "-untrusted", str(tmp_path / "middle"), str(tmp_path / "leaf")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'leaf'}: OK\n"), done.stderr


@pytest.mark.parametrize("signing", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.RSA_2048])
def test_the_library_validates_the_path(signing: KeyKind, kind: KeyKind) -> None:
    first, *middle, top = (x509.load_pem_x509_certificate(each.encode()) for each in chain(signing, kind))
    builder = PolicyBuilder().store(Store([top])).time(datetime.fromtimestamp(NOW, UTC))
    verified = builder.build_client_verifier().verify(first, middle)
    assert verified.subjects == [x509.UniformResourceIdentifier(URI)]
    assert verified.chain == [first, *middle, top]


def test_the_library_validates_the_serving_leaf() -> None:
    made = authority(KeyKind.EC_P256)
    pair = ServingCertificate(made.issuer, ["localhost"]).pair(NOW)
    first, *middle = x509.load_pem_x509_certificates(pair.chain_pem)
    store = Store([made.hierarchy.root.certificate])
    builder = PolicyBuilder().store(store).time(datetime.fromtimestamp(NOW, UTC))
    assert builder.build_server_verifier(x509.DNSName("localhost")).verify(first, middle)


def test_what_ztunnel_checks() -> None:
    """Its WorkloadCertificate::new: leaf, one certificate per middle element, roots last, the first URI is the id."""
    elements = chain(KeyKind.EC_P256, KeyKind.EC_P256)
    assert len(elements) >= 2
    first, middle, roots = elements[0], elements[1:-1], elements[-1]
    names = x509.load_pem_x509_certificate(first.encode()).extensions
    san = names.get_extension_for_class(x509.SubjectAlternativeName).value
    assert san.get_values_for_type(x509.UniformResourceIdentifier)[0] == URI
    for element in middle:
        assert element.count("-----BEGIN CERTIFICATE-----") == 1
    assert x509.load_pem_x509_certificates(roots.encode())
    certificate_ = x509.load_pem_x509_certificate(first.encode())
    starts, ends = certificate_.not_valid_before_utc.timestamp(), certificate_.not_valid_after_utc.timestamp()
    assert starts + (ends - starts) / 2 > NOW, "it renews at half life: not at once"


def test_what_istio_agent_checks() -> None:
    """At least two elements; all of them joined are Envoy's chain, the last is ROOTCA; each ends its own line."""
    elements = chain(KeyKind.EC_P256, KeyKind.EC_P256)
    assert len(elements) >= 2
    assert all(element.endswith("\n") for element in elements)
    joined = x509.load_pem_x509_certificates("".join(elements).encode())
    assert len(joined) == len(elements)
    for below, above in pairwise(joined):
        below.verify_directly_issued_by(above)
    assert joined[0].public_key() == key().public_key()


def test_what_ztunnel_asks_is_answered() -> None:
    """P-256 with SHA-256, empty subject, one critical URI: its request as it is."""
    asked = make_csr(extensions=[(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(URI)]), True)])
    answer = authority(KeyKind.EC_P256).issue(csr=asked, now=NOW)
    assert answer.spiffe_id == f"spiffe://{MESH}/ns/default/sa/web"
