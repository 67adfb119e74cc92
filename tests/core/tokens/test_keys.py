"""Verification keys out of JWKS documents: what each may decide, and which are left out."""

from __future__ import annotations

import json

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.tokens.keys import MAX_JWKS_BYTES, KeySet
from meshpki.tokens.parse import parse
from support.tokens import ABSENT, TokenMaker, b64url, public_jwk

RSA = TokenMaker()
EC = TokenMaker(kid="ec", algorithm="ES256")


def jwks(*entries: object) -> KeySet:
    return KeySet.from_jwks(json.dumps({"keys": entries}).encode())


def number(value: int) -> str:
    return b64url(value.to_bytes((value.bit_length() + 7) // 8)).decode()


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("RS256", "RS256"), ("PS384", "PS384"), ("ES256", "ES256"), ("ES384", "ES384"), ("ES512", "ES512")],
)
def test_a_key_with_an_alg_is_good_for_that_alone(algorithm: str, expected: str) -> None:
    maker = TokenMaker(algorithm=algorithm)
    (key,) = jwks(maker.jwk()).keys
    assert key.algorithms == (expected,)
    assert key.kid == maker.kid
    assert key.verifies(parse(maker.token()))
    assert not key.verifies(parse(TokenMaker(algorithm=algorithm, slot=1).token()))


@pytest.mark.parametrize(
    ("algorithm", "expected"), [("RS256", "RS256"), ("ES256", "ES256"), ("ES384", "ES384"), ("ES512", "ES512")]
)
def test_without_an_alg_the_kind_decides(algorithm: str, expected: str) -> None:
    (key,) = jwks(TokenMaker(algorithm=algorithm).jwk(alg=ABSENT)).keys
    assert key.algorithms == (expected,)


def test_a_key_never_verifies_under_another_algorithm() -> None:
    (key,) = jwks(RSA.jwk()).keys
    assert not key.verifies(parse(TokenMaker(algorithm="PS256").token()))
    assert not key.verifies(parse(TokenMaker(algorithm="RS512").token()))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use": "enc"}, "use"),
        ({"use": "jwt-svid"}, "use"),
        ({"use": None}, "use"),
        ({"key_ops": ["sign"]}, "key_ops"),
        ({"key_ops": ["encrypt"]}, "key_ops"),
        ({"key_ops": []}, "key_ops"),
        ({"key_ops": "verify"}, "key_ops"),
        ({"alg": "HS256"}, "alg"),
        ({"alg": "none"}, "alg"),
        ({"alg": "ES256"}, "alg"),
        ({"alg": None}, "alg"),
        ({"alg": ["RS256"]}, "alg"),
        ({"kty": "oct", "k": "AAAA"}, "kty"),
        ({"kty": "OKP"}, "kty"),
        ({"kty": 5}, "kty"),
        ({"kty": ["RSA"]}, "kty"),
        ({"kty": ABSENT}, "kty"),
        ({"kid": 5}, "kid"),
        ({"kid": "x" * 257}, "kid"),
        ({"n": ABSENT}, "n "),
        ({"n": 5}, "n "),
        ({"n": str(RSA.jwk()["n"]) + "=="}, "n "),
        ({"n": "+" + str(RSA.jwk()["n"])[1:]}, "n "),
        ({"n": "ü"}, "n "),
        ({"n": "\ud800"}, "n "),
        ({"e": "AQAB="}, "e "),
        ({"e": ""}, "numbers"),
        ({"e": number(3)}, "exponent"),
        ({"e": number(65536)}, "numbers"),
        ({"e": number((1 << 64) + 1)}, "exponent"),
        ({"n": number((1 << 2046) + 1)}, "2047 bits"),
        ({"n": number((1 << 8192) + 1)}, "8193 bits"),
        ({"n": "AA"}, "numbers"),
    ],
)
def test_unfit_rsa_keys_are_left_out(changes: dict[str, object], why: str) -> None:
    keys = jwks(RSA.jwk(**changes), EC.jwk())
    assert [key.kid for key in keys.keys] == ["ec"]
    assert len(keys.skipped) == 1
    assert why in keys.skipped[0]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"crv": "P-384"}, "alg"),
        ({"crv": "P-384", "alg": ABSENT}, "numbers"),
        ({"crv": "secp256k1", "alg": ABSENT}, "crv"),
        ({"crv": ABSENT}, "crv"),
        ({"crv": ["P-256"]}, "crv"),
        ({"alg": "ES384"}, "alg"),
        ({"alg": "RS256"}, "alg"),
        ({"x": EC.jwk()["y"]}, "numbers"),
        ({"x": "AA"}, "numbers"),
        ({"y": ABSENT}, "y "),
        ({"y": str(EC.jwk()["y"]) + "="}, "y "),
    ],
)
def test_unfit_ec_keys_are_left_out(changes: dict[str, object], why: str) -> None:
    keys = jwks(EC.jwk(**changes))
    assert keys.keys == ()
    assert why in keys.skipped[0]


def test_rsa_1024_is_left_out_and_2048_is_not() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505
    keys = jwks({**public_jwk(weak), "kid": "weak"}, RSA.jwk())
    assert [key.kid for key in keys.keys] == [RSA.kid]
    assert keys.skipped == ("key 1: an RSA key of 1024 bits, not 2048 to 8192",)


def test_a_private_key_in_the_set_is_an_alarm() -> None:
    with pytest.raises(InvalidValueError, match="private key") as caught:
        jwks(RSA.jwk(d="c2VjcmV0"))
    assert "c2VjcmV0" not in str(caught.value)
    assert "new signing key" in caught.value.todo


def test_the_same_key_twice_is_one() -> None:
    assert len(jwks(RSA.jwk(), RSA.jwk()).keys) == 1


def test_one_kid_for_two_keys_of_one_kind_is_refused() -> None:
    with pytest.raises(InvalidValueError, match="two different keys"):
        jwks(RSA.jwk(), TokenMaker(slot=1).jwk())


def test_one_kid_for_two_kinds_is_told_apart_by_the_algorithm() -> None:
    keys = jwks(RSA.jwk(), TokenMaker(algorithm="ES256").jwk())
    assert len(keys.candidates(RSA.kid)) == 2


def test_candidates() -> None:
    keys = jwks(RSA.jwk(), EC.jwk(), TokenMaker(kid="", slot=1).jwk())
    assert [key.kid for key in keys.candidates("ec")] == ["ec"]
    assert [key.kid for key in keys.candidates(None)] == [RSA.kid, "ec", None]
    assert keys.candidates("other") == ()


def test_no_keys_means_trust_nothing() -> None:
    assert jwks().keys == ()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b'{"keys":{}}',
        b'{"keys":null}',
        b'{"keys":[],"keys":[]}',
        b'{"keys":[{"kty":"RSA","kty":"EC"}]}',
        b"<html>",
        b"\xff",
        b'{"keys":[' + b",".join([b"{}"] * 257) + b"]}",
        RSA.jwks().ljust(MAX_JWKS_BYTES + 1),
    ],
)
def test_no_jwks(document: bytes) -> None:
    with pytest.raises(InvalidValueError):
        KeySet.from_jwks(document)


def test_the_largest_document() -> None:
    assert len(KeySet.from_jwks(RSA.jwks().ljust(MAX_JWKS_BYTES)).keys) == 1


def test_members_that_we_do_not_know_are_ignored() -> None:
    keys = jwks(RSA.jwk(x5c=["MIIB"], x5t="x", foo={"bar": 1}), "text", None)
    assert len(keys.keys) == 1
    assert keys.skipped == ("key 2: no JSON object", "key 3: no JSON object")


TEXTS = st.text(max_size=8)
VALUES = st.one_of(st.none(), st.booleans(), st.integers(), TEXTS, st.lists(TEXTS, max_size=2))
MEMBERS = st.sampled_from(["kty", "use", "key_ops", "alg", "kid", "n", "e", "x", "y", "crv"])


@given(st.dictionaries(MEMBERS, VALUES, max_size=4), st.booleans())
def test_any_jwk_is_read_or_left_out(changes: dict[str, object], elliptic: bool) -> None:
    keys = jwks((EC if elliptic else RSA).jwk(**changes))
    assert len(keys.keys) + len(keys.skipped) == 1


@given(st.binary(max_size=100))
def test_any_bytes_are_a_set_or_one_kind_of_error(data: bytes) -> None:
    try:
        KeySet.from_jwks(data)
    except InvalidValueError:
        return
    assert isinstance(json.loads(data)["keys"], list)
