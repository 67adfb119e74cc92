"""The server's own leaf: renewed at half life, the old one kept while the signer is away, never a CA certificate."""

from __future__ import annotations

import ssl
import threading
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID

from meshpki.ca.issuer import Issuer
from meshpki.ca.server.serving_certificate import (
    RETRY_SECONDS,
    ServingCertificate,
    ServingPair,
    renewal_due,
    server_name,
)
from meshpki.errors import InvalidValueError, UnavailableError
from support.authority import NOW, TestAuthority, make_authority

if TYPE_CHECKING:
    from meshpki.ca.issue import Issued

DAY = 86_400


@pytest.fixture(scope="module")
def authority() -> TestAuthority:
    return make_authority(now=NOW)


def certificates(pair: ServingPair) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pair.chain_pem)


def test_what_it_carries(authority: TestAuthority) -> None:
    pair = ServingCertificate(authority.issuer, ["ca.mesh.example", "127.0.0.1", "::1"]).pair(NOW)
    leaf, middle = certificates(pair)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [
        x509.DNSName("ca.mesh.example"),
        x509.IPAddress(ip_address("127.0.0.1")),
        x509.IPAddress(ip_address("::1")),
    ]
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usages) == [ExtendedKeyUsageOID.SERVER_AUTH]
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature, "gRPC core serves no certificate without it"
    assert not usage.key_cert_sign
    assert middle == authority.hierarchy.issuer.certificate
    key = load_pem_private_key(pair.key_pem, None)
    assert key.public_key() == leaf.public_key()
    assert (pair.not_before, pair.not_after) == (NOW - 120, NOW + DAY)
    assert "PRIVATE" not in repr(pair)


def test_tls_with_it(authority: TestAuthority, tmp_path_factory: pytest.TempPathFactory) -> None:
    real = make_authority()
    now = real.issuer.not_before + 3700
    pair = ServingCertificate(real.issuer, ["localhost"]).pair(now)
    both = tmp_path_factory.mktemp("tls") / "both.pem"
    both.write_bytes(pair.chain_pem + pair.key_pem)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(both)
    client = ssl.create_default_context(cadata=real.root_pem.decode())
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    left = client.wrap_bio(to_client, to_server, server_hostname="localhost")
    right = server.wrap_bio(to_server, to_client, server_side=True)
    done = set()
    for _ in range(6):
        for side in (left, right):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                continue
    assert done == {left, right}


@pytest.mark.parametrize(("at", "due"), [(0, False), (499, False), (500, True), (1001, True), (-5, False)])
def test_renewal_is_due_from_half_life(at: int, due: bool) -> None:
    pair = ServingPair(b"", b"", 0, 1000, 1)
    assert renewal_due(pair, at) is due
    assert renewal_due(None, at)


def test_it_is_kept_until_half_life_and_then_renewed(authority: TestAuthority) -> None:
    seen: list[Issued] = []
    serving = ServingCertificate(authority.issuer, ["localhost"], lifetime_seconds=1000, record=seen.append)
    first = serving.pair(NOW)
    assert serving.pair(NOW + 400) is first
    second = serving.pair(NOW + 500)
    assert second.serial != first.serial
    assert second.key_pem != first.key_pem
    assert serving.pair(NOW + 501) is second
    assert [each.serial for each in seen] == [first.serial, second.serial]
    assert seen[0].spiffe_id == ""


def test_it_never_outlives_the_chain() -> None:
    short = make_authority(now=NOW, issuer_seconds=100)
    assert ServingCertificate(short.issuer, ["localhost"]).pair(NOW).not_after == NOW + 100


class Fallible:
    """A signer that can be put out of reach."""

    def __init__(self, authority: TestAuthority) -> None:
        self.chain = authority.signer.chain
        self.away = False
        self.calls = 0
        self._signer = authority.signer

    def sign(self, tbs: bytes) -> bytes:
        self.calls += 1
        if self.away:
            raise UnavailableError("the signer is away")
        return self._signer.sign(tbs)


def test_the_old_one_is_served_while_the_signer_is_away(
    authority: TestAuthority, caplog: pytest.LogCaptureFixture
) -> None:
    signer = Fallible(authority)
    serving = ServingCertificate(Issuer.from_signer(signer), ["localhost"], lifetime_seconds=1000)
    first = serving.pair(NOW)
    signer.away = True
    assert serving.pair(NOW + 600) is first
    calls = signer.calls
    assert serving.pair(NOW + 600 + RETRY_SECONDS - 1) is first
    assert signer.calls == calls, "not again at every handshake"
    assert serving.pair(NOW + 600 + RETRY_SECONDS) is first
    assert signer.calls == calls + 1
    assert "not renewed" in caplog.text
    with pytest.raises(UnavailableError):
        serving.pair(NOW + 1000)
    signer.away = False
    assert serving.pair(NOW + 1001).serial != first.serial


def test_a_record_that_fails_keeps_the_certificate_unused(authority: TestAuthority) -> None:
    def full(issued: Issued) -> None:
        raise UnavailableError("the disk is full")

    with pytest.raises(UnavailableError):
        ServingCertificate(authority.issuer, ["localhost"], record=full).pair(NOW)


def test_threads_that_come_together_get_one_pair(authority: TestAuthority) -> None:
    signer = Fallible(authority)
    serving = ServingCertificate(Issuer.from_signer(signer), ["localhost"])
    before, found = signer.calls, []
    threads = [threading.Thread(target=lambda: found.append(serving.pair(NOW))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({each.serial for each in found}) == 1
    assert len(found) == 8
    assert signer.calls == before + 1


@pytest.mark.parametrize(
    "text", ["", "*.example", "a_b", "-a", "a..b", "a" * 64, "a." * 130 + "a", "ünï", "a b", "[::1]"]
)
def test_what_is_no_server_name(text: str) -> None:
    with pytest.raises(InvalidValueError, match="server name"):
        server_name(text)


def test_no_name_at_all(authority: TestAuthority) -> None:
    with pytest.raises(InvalidValueError, match="no server name"):
        ServingCertificate(authority.issuer, [])


def test_root_stays_with_the_client(authority: TestAuthority) -> None:
    pair = ServingCertificate(authority.issuer, ["localhost"]).pair(NOW)
    assert authority.hierarchy.root.certificate.public_bytes(Encoding.PEM) not in pair.chain_pem
