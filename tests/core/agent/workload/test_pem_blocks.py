"""PEM into DER: the same bytes as the library's, and nothing out of anything else."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from meshpki.agent.rotation.key_request import KeyType, new_key_request
from meshpki.agent.workload.pem_blocks import CERTIFICATE, PRIVATE_KEY, to_der
from meshpki.errors import IntegrityError
from support.fake_ca import make_ca

ROOTS = [make_ca("one"), make_ca("two")]
PEM = "".join(root.pem for root in ROOTS).encode()
DER = b"".join(root.certificate.public_bytes(Encoding.DER) for root in ROOTS)


@pytest.mark.parametrize("kind", KeyType)
def test_a_key_is_the_same_der_as_the_librarys(kind: KeyType) -> None:
    pem = new_key_request(kind).key_pem
    key = load_pem_private_key(pem, None)
    assert to_der(pem, PRIVATE_KEY) == key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


@pytest.mark.parametrize(
    "pem",
    [
        PEM,
        PEM.replace(b"\n", b"\r\n"),
        b"# one and two\n" + PEM,
        PEM.replace(b"\n-----BEGIN", b"\n\n note \n-----BEGIN"),
    ],
    ids=["plain", "crlf", "text before", "text between"],
)
def test_certificates_follow_one_another(pem: bytes) -> None:
    assert to_der(pem, CERTIFICATE) == DER


def test_the_library_reads_what_we_take() -> None:
    assert b"".join(c.public_bytes(Encoding.DER) for c in x509.load_pem_x509_certificates(PEM)) == DER


@pytest.mark.parametrize(
    ("pem", "label"),
    [
        (b"", CERTIFICATE),
        (b"garbage", CERTIFICATE),
        (PEM[:-30], CERTIFICATE),
        (PEM[: len(PEM) // 3] + PEM[len(PEM) // 2 :], CERTIFICATE),
        (PEM, PRIVATE_KEY),
        (PEM + new_key_request(KeyType.EC_P256).key_pem, CERTIFICATE),
        (PEM.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE"), CERTIFICATE),
        (b"-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n", PRIVATE_KEY),
        (b"-----BEGIN CERTIFICATE-----\nAAAAA\n-----END CERTIFICATE-----\n", CERTIFICATE),
        (b"-----BEGIN CERTIFICATE-----\nAA*A\n-----END CERTIFICATE-----\n", CERTIFICATE),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END PRIVATE KEY-----\n", CERTIFICATE),
    ],
)
def test_anything_else_is_refused_without_showing_it(pem: bytes, label: str) -> None:
    with pytest.raises(IntegrityError) as caught:
        to_der(pem, label)
    assert caught.value.__cause__ is None
    assert not any(line.decode() in str(caught.value) for line in pem.splitlines() if line and b"-----" not in line)
