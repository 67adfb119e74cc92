"""Key kinds are told by bytes alone: whatever is not written just so is of no kind."""

from __future__ import annotations

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from meshpki.ca import pem
from meshpki.ca.keys import KeyKind, generate, key_bits, kind_of_spki, sample_public_key, spki_of
from meshpki.ca.template import key_identifier
from support.authority import key


@pytest.mark.parametrize("kind", KeyKind)
def test_each_kind_is_told(kind: KeyKind) -> None:
    assert kind_of_spki(spki_of(sample_public_key(kind))) is kind
    assert kind.is_rsa is kind.value.startswith("rsa-")


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
def test_new_keys_are_of_their_kind_and_differ(kind: KeyKind) -> None:
    first, second = (spki_of(generate(kind).public_key()) for _ in range(2))
    assert first != second
    assert kind_of_spki(first) is kind_of_spki(second) is kind


HEADS = {
    KeyKind.EC_P256: 27,
    KeyKind.EC_P384: 24,
    KeyKind.RSA_2048: 33,
    KeyKind.RSA_3072: 33,
    KeyKind.RSA_4096: 33,
}


@pytest.mark.parametrize("kind", KeyKind)
def test_any_other_octet_around_the_key_is_no_kind(kind: KeyKind) -> None:
    good = spki_of(sample_public_key(kind))
    around = [*range(HEADS[kind]), *(range(len(good) - 5, len(good)) if kind.is_rsa else ())]
    for at in around:
        bad = bytearray(good)
        bad[at] ^= 0x01
        assert kind_of_spki(bytes(bad)) is None, at
    assert kind_of_spki(good + b"\x00") is None
    assert kind_of_spki(good[:-1]) is None
    assert kind_of_spki(b"") is None


@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072])
def test_the_key_identifier_is_taken_over_the_bits_that_the_library_sees(kind: KeyKind) -> None:
    public = key(kind).public_key()
    if isinstance(public, ec.EllipticCurvePublicKey):
        bits = public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    else:
        bits = public.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    assert key_bits(spki_of(public), kind) == bits
    assert key_identifier(bits) == hashlib.sha256(bits).digest()[:20]


@given(st.binary(min_size=1, max_size=300))
def test_pem_there_and_back(content: bytes) -> None:
    text = pem.encode(content, "X")
    assert pem.decode_one(text.encode(), "X") == content
    assert max(len(line) for line in text.splitlines()) <= 64


@pytest.mark.parametrize("body", ["QQ==", "QUI=", "QUJD"])
def test_base64_that_is_canonical(body: str) -> None:
    assert pem.decode_one(f"-----BEGIN X-----\n{body}\n-----END X-----\n".encode(), "X") in {b"A", b"AB", b"ABC"}


@pytest.mark.parametrize("body", ["QR==", "QUJ=", "QUJD====", "QQ=", "QQ", "QQ===", "=QQ=", "Q-_D", "QUJD QUJD"])
def test_base64_that_could_be_read_in_two_ways(body: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        pem.decode_one(f"-----BEGIN X-----\n{body}\n-----END X-----\n".encode(), "X")
