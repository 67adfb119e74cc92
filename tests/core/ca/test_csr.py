"""Requests: what gives a key, what is refused for which reason, and that nothing ever escapes but a refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshpki.ca import csr, der, pem
from meshpki.ca.csr import LABEL, MAX_CSR_BYTES, CsrKey, read_csr
from meshpki.ca.keys import KeyKind, key_bits, kind_of_spki, spki_of
from meshpki.ca.reasons import CsrReason, CsrRefusedError
from support.authority import key, make_csr
from support.csr_forms import BASIC_CONSTRAINTS, VECTORS, VERDICTS, reassemble, vector, vector_der, with_extensions

if TYPE_CHECKING:
    from collections.abc import Callable

QUICK = [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048, KeyKind.RSA_3072]


def refusal(text: str | bytes) -> CsrReason:
    with pytest.raises(CsrRefusedError) as caught:
        read_csr(text)
    assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, Exception)
    return caught.value.reason


@pytest.mark.parametrize("kind", [*QUICK, KeyKind.RSA_4096])
def test_an_allowed_key_is_read(kind: KeyKind) -> None:
    found = read_csr(make_csr(key(kind)))
    assert found == CsrKey(spki_of(key(kind).public_key()), kind)


@pytest.mark.parametrize("digest", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("kind", [KeyKind.EC_P256, KeyKind.EC_P384, KeyKind.RSA_2048])
def test_each_allowed_hash(kind: KeyKind, digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512) -> None:
    assert read_csr(make_csr(key(kind), digest=digest)).kind is kind


def test_text_and_bytes_are_one() -> None:
    request = make_csr()
    assert read_csr(request) == read_csr(request.encode()) == read_csr(f"\n {request} \n")
    assert read_csr(request.replace("\n", "\r\n")) == read_csr(request)


@pytest.mark.parametrize(
    ("private_key", "seen"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA of 1024 bits"),  # noqa: S505
        (rsa.generate_private_key(3, 2048), "exponent 3"),
        (rsa.generate_private_key(65537, 2056), "RSA of 2056 bits"),
        (ec.generate_private_key(ec.SECP192R1()), "secp192r1"),
        (ec.generate_private_key(ec.SECP224R1()), "secp224r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ec.generate_private_key(ec.BrainpoolP256R1()), "brainpoolP256r1"),
        (ec.generate_private_key(ec.SECP521R1()), "secp521r1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
    ],
)
def test_a_key_of_another_kind_is_refused_by_name(private_key: object, seen: str) -> None:
    digest = None if isinstance(private_key, ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey) else hashes.SHA256()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = builder.sign(private_key, digest)  # type: ignore[arg-type]  # each of the union in turn
    with pytest.raises(CsrRefusedError, match=seen) as caught:
        read_csr(request.public_bytes(Encoding.PEM))
    assert caught.value.reason is CsrReason.KEY_NOT_ALLOWED
    assert "ec-p256" in str(caught.value)


@pytest.mark.parametrize("bits", [4104, 8192, 16_384, 65_536])
def test_rsa_beyond_our_sizes_is_refused_by_its_bytes_and_never_verified_with(
    bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With 16,384 bits that would take 2 ms, in which everybody else waits."""
    monkeypatch.setattr("meshpki.ca.csr._check_signature", None)
    spki = spki_of(rsa.RSAPublicNumbers(65537, 2 ** (bits - 1) + 1).public_key())
    with pytest.raises(CsrRefusedError, match=f"RSA of {bits} bits") as caught:
        read_csr(reassemble(make_csr(), lambda parts: parts.__setitem__(2, spki)))
    assert caught.value.reason is CsrReason.KEY_NOT_ALLOWED


def test_dsa_is_refused_by_name() -> None:
    numbers = dsa.generate_parameters(1024).generate_private_key().public_key()
    spki = numbers.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(CsrRefusedError, match="DSA of 1024 bits"):
        read_csr(reassemble(make_csr(), lambda parts: parts.__setitem__(2, spki)))


def spki_with(algorithm: bytes, bits: bytes) -> bytes:
    return der.element(der.SEQUENCE, der.element(der.SEQUENCE, algorithm) + der.bit_string(bits))


EC_ALGORITHM = der.object_identifier("1.2.840.10045.2.1")
P256_CURVE = der.object_identifier("1.2.840.10045.3.1.7")


def odd_keys() -> dict[str, bytes]:
    """Forms of allowed keys that another reader could take for something else."""
    p256, wide = key().public_key(), key(KeyKind.RSA_2048).public_key()
    assert isinstance(p256, ec.EllipticCurvePublicKey)
    assert isinstance(wide, rsa.RSAPublicKey)
    compressed = p256.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    pkcs1 = wide.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    return {
        "compressed point": spki_with(EC_ALGORITHM + P256_CURVE, compressed),
        "RSA-PSS key": spki_with(der.object_identifier("1.2.840.113549.1.1.10"), pkcs1),
        "RSA key without NULL": spki_with(der.object_identifier("1.2.840.113549.1.1.1"), pkcs1),
        "curve left implicit": spki_with(EC_ALGORITHM + b"\x05\x00", b"\x04" + bytes(64)),
        "unknown algorithm": spki_with(der.object_identifier("1.3.6.1.4.1.99999.1"), b"\x00" * 32),
        "no bits": spki_with(EC_ALGORITHM + P256_CURVE, b""),
        "explicit curve": spki_with(EC_ALGORITHM + explicit_p256(), bytes(key_bits(spki_of(p256), KeyKind.EC_P256))),
    }


def explicit_p256() -> bytes:
    """The parameters of P-256 written out (X9.62 ECParameters) where RFC 5480 wants its name."""
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = bytes.fromhex("5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b")
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    base = ec.derive_private_key(1, ec.SECP256R1()).public_key()
    point = base.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    field = der.element(der.SEQUENCE, der.object_identifier("1.2.840.10045.1.1") + der.integer(prime))
    octets = [der.element(der.OCTET_STRING, each) for each in ((prime - 3).to_bytes(32, "big"), b, point)]
    curve = der.element(der.SEQUENCE, octets[0] + octets[1])
    return der.element(der.SEQUENCE, der.integer(1) + field + curve + octets[2] + der.integer(order) + der.integer(1))


@pytest.mark.parametrize("name", odd_keys())
def test_an_odd_form_of_key_is_refused(name: str) -> None:
    spki = odd_keys()[name]
    assert kind_of_spki(spki) is None
    assert refusal(reassemble(make_csr(), lambda parts: parts.__setitem__(2, spki))) is CsrReason.KEY_NOT_ALLOWED


def test_a_point_off_its_curve_is_refused() -> None:
    good = spki_of(key().public_key())
    bad = good[:-1] + bytes((good[-1] ^ 1,))
    assert kind_of_spki(bad) is KeyKind.EC_P256
    assert refusal(reassemble(make_csr(), lambda parts: parts.__setitem__(2, bad))) is CsrReason.KEY_INVALID


def test_a_modulus_that_is_not_full_size_is_refused() -> None:
    spki = bytearray(spki_of(key(KeyKind.RSA_2048).public_key()))
    assert kind_of_spki(bytes(spki)) is KeyKind.RSA_2048
    spki[33] &= 0x7F
    assert kind_of_spki(bytes(spki)) is None


def test_a_signature_of_another_key_is_refused() -> None:
    assert refusal(reassemble(make_csr(), lambda parts: None, signer=key(number=1))) is CsrReason.BAD_SIGNATURE


def test_a_changed_request_is_refused() -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")]).public_bytes()
    assert refusal(reassemble(make_csr(), lambda parts: parts.__setitem__(1, name))) is CsrReason.BAD_SIGNATURE


def test_pss_and_sha1_signatures_are_refused() -> None:
    private = key(KeyKind.RSA_2048)
    assert isinstance(private, rsa.RSAPrivateKey)
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    pss = builder.sign(private, hashes.SHA256(), rsa_padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32))
    assert refusal(pss.public_bytes(Encoding.PEM)) is CsrReason.SIGNATURE_ALGORITHM_NOT_ALLOWED
    weak = builder.sign(key(), hashes.SHA224())
    assert refusal(weak.public_bytes(Encoding.PEM)) is CsrReason.SIGNATURE_ALGORITHM_NOT_ALLOWED
    mixed = make_csr(private).encode()
    outer = der.children(pem.decode_one(mixed, LABEL))
    outer[1] = der.element(der.SEQUENCE, der.object_identifier("1.2.840.10045.4.3.2"))
    text = pem.encode(der.element(der.SEQUENCE, b"".join(outer)), LABEL)
    assert refusal(text) is CsrReason.SIGNATURE_ALGORITHM_NOT_ALLOWED


def test_an_extension_twice_is_refused() -> None:
    assert refusal(with_extensions(BASIC_CONSTRAINTS, BASIC_CONSTRAINTS)) is CsrReason.DUPLICATE_EXTENSION
    assert read_csr(with_extensions(BASIC_CONSTRAINTS)).kind is KeyKind.EC_P256


def test_an_extension_that_cannot_be_read_is_refused() -> None:
    broken = der.extension("2.5.29.17", b"\x30\x82\xff\xff")
    assert refusal(with_extensions(broken)) is CsrReason.EXTENSION_MALFORMED


def test_what_is_asked_for_beside_the_key_is_ignored() -> None:
    stuffed = make_csr(
        subject=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")]),
        extensions=[
            (x509.BasicConstraints(ca=True, path_length=9), True),
            (x509.SubjectAlternativeName([x509.UniformResourceIdentifier("spiffe://mesh.local/ns/a/sa/b")]), True),
            (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), False),
        ],
    )
    assert read_csr(stuffed) == read_csr(make_csr())


def test_sixty_thousand_names_are_refused_before_they_are_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = b"".join(der.element(0x82, b"%05d.example" % number) for number in range(60_000))
    extension = der.extension("2.5.29.17", der.element(der.SEQUENCE, names))
    request = with_extensions(extension)
    monkeypatch.setattr(csr, "_parse", None)
    assert refusal(request) is CsrReason.TOO_LARGE


def test_the_cap_is_where_it_is_said_to_be() -> None:
    request = make_csr()
    assert read_csr(request + "\n" * (MAX_CSR_BYTES - len(request))).kind is KeyKind.EC_P256
    assert refusal(request + "\n" * (MAX_CSR_BYTES - len(request) + 1)) is CsrReason.TOO_LARGE


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: "no request",
        lambda text: text + text,
        lambda text: "beside it\n" + text,
        lambda text: text + "beside it",
        lambda text: text.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
        lambda text: text.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        lambda text: text.replace("REQUEST-----\n", "REQUEST-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
        lambda text: text.replace("\n", "", 1),
        lambda text: text.replace("-----END", "A-----END"),
        lambda text: text.replace("M", "é", 1),
        lambda text: text.replace("M", "!", 1),
        lambda text: text.replace("M", " ", 1),
        lambda text: "-----BEGIN CERTIFICATE REQUEST-----END CERTIFICATE REQUEST-----",
        lambda text: "\ud800" + text,
    ],
)
def test_anything_but_one_strict_block_is_refused(change: Callable[[str], str]) -> None:
    assert refusal(change(make_csr())) is CsrReason.NOT_PEM


@pytest.mark.parametrize(
    "content",
    [b"", b"\x30\x00", b"\x30\x80\x00\x00", b"\xff" * 100, b"\x30\x84\xff\xff\xff\xff"],
)
def test_a_block_without_a_request_is_refused(content: bytes) -> None:
    assert refusal(pem.encode(content, LABEL)) in {CsrReason.MALFORMED, CsrReason.NOT_PEM}


def test_bytes_after_the_request_are_refused() -> None:
    content = pem.decode_one(make_csr().encode(), LABEL)
    assert refusal(pem.encode(content + b"\x00", LABEL)) is CsrReason.MALFORMED


def verdict(text: bytes) -> str:
    try:
        return read_csr(text).kind.value
    except CsrRefusedError as error:
        return error.reason.value


def test_there_are_26_vectors() -> None:
    assert sorted(VERDICTS) == VECTORS


@pytest.mark.parametrize("name", VECTORS)
def test_each_vector_has_a_verdict(name: str) -> None:
    assert verdict(pem.encode(vector_der(name), LABEL).encode()) == VERDICTS[name]
    assert verdict(vector(name))  # with whatever stands around the block


class PanicException(BaseException):
    """What a panic in a Rust extension looks like from Python."""


@pytest.mark.parametrize("error", [PanicException("x"), RuntimeError("x"), UserWarning("x"), MemoryError()])
def test_whatever_the_parser_throws_is_a_refusal(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(content: bytes) -> None:
        raise error

    monkeypatch.setattr(x509, "load_der_x509_csr", fail)
    assert refusal(make_csr()) is CsrReason.MALFORMED


def test_an_interrupt_is_no_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(content: bytes) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(x509, "load_der_x509_csr", interrupt)
    with pytest.raises(KeyboardInterrupt):
        read_csr(make_csr())


@given(st.binary(max_size=400))
def test_arbitrary_bytes_never_escape(data: bytes) -> None:
    for text in (data, pem.encode(data, LABEL)):
        with pytest.raises(CsrRefusedError):
            read_csr(text)


CORPUS = [pem.decode_one(make_csr(key(kind)).encode(), LABEL) for kind in (KeyKind.EC_P256, KeyKind.RSA_2048)] + [
    vector_der(name) for name in VECTORS
]


@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutated_requests_never_escape(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(CORPUS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        match data.draw(st.sampled_from(["flip", "set", "cut", "insert", "repeat"])):
            case "flip":
                content[at] ^= 1 << data.draw(st.integers(0, 7))
            case "set":
                content[at] = data.draw(st.integers(0, 255))
            case "cut":
                del content[at : at + data.draw(st.integers(1, 8))]
            case "insert":
                content[at:at] = data.draw(st.binary(min_size=1, max_size=8))
            case _:
                content[at:at] = content[at : at + 16]
        if not content:
            break
    text = pem.encode(bytes(content), LABEL)
    try:
        found = read_csr(text)
    except CsrRefusedError:
        return
    assert kind_of_spki(found.spki) is found.kind
