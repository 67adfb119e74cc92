"""The strict form: what passes is kept as it was signed, and headers allow next to nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.parse import TokenHeader, check_header, parse, read_header
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from support.tokens import TokenMaker, b64url, compact

MAKER = TokenMaker()


def test_what_was_signed_is_kept_byte_for_byte() -> None:
    token = MAKER.token()
    parsed = parse(token)
    assert parsed.signing_input + b"." + b64url(parsed.signature) == token
    assert parsed.claims == MAKER.claims()
    assert parsed.header == TokenHeader("RS256", "key-1")


@pytest.mark.parametrize(
    ("header", "kid"),
    [({"alg": "RS256"}, None), ({"alg": "RS256", "kid": ""}, None), ({"alg": "RS256", "kid": "x", "typ": "JWT"}, "x")],
)
def test_headers(header: dict[str, object], kid: str | None) -> None:
    assert check_header(header).kid == kid


@pytest.mark.parametrize(
    "name", ["jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64", "cty", "zip", "enc", "epk", "p2c", "ALG", ""]
)
def test_other_members_are_refused_whatever_they_hold(name: str) -> None:
    values: list[object] = [None, "", [], True, {"kty": "RSA"}]
    for value in values:
        with pytest.raises(TokenRefusedError) as caught:
            check_header({"alg": "RS256", name: value})
        assert caught.value.reason is TokenReason.HEADER_NOT_ALLOWED


@pytest.mark.parametrize("kind", ["jwt", "JOSE", "at+jwt", "application/jwt", "", None, ["JWT"], 1])
def test_other_types_are_refused(kind: object) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        check_header({"alg": "RS256", "typ": kind})
    assert caught.value.reason is TokenReason.HEADER_NOT_ALLOWED


@pytest.mark.parametrize(
    "algorithm",
    [
        "none",
        "None",
        "",
        "HS256",
        "HS384",
        "HS512",
        "EdDSA",
        "ES256K",
        "ES521",
        "rs256",
        "RS1",
        "RSA-OAEP",
        None,
        ["RS256"],
    ],
)
def test_other_algorithms_are_refused(algorithm: object) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        check_header({"alg": algorithm})
    assert caught.value.reason is TokenReason.ALGORITHM_NOT_ALLOWED


@pytest.mark.parametrize("kid", [None, 5, ["x"], {}, "x" * 257])
def test_a_kid_is_a_short_text(kid: object) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        check_header({"alg": "RS256", "kid": kid})
    assert caught.value.reason is TokenReason.HEADER_NOT_ALLOWED


def test_headers_are_remembered_and_refusals_are_not() -> None:
    read_header.cache_clear()
    good, bad = b64url(compact({"alg": "RS256"})), b64url(compact({"alg": "none"}))
    assert read_header(good) is read_header(good)
    for _ in range(3):
        with pytest.raises(TokenRefusedError):
            read_header(bad)
    assert read_header.cache_info().currsize == 1


def test_strangers_cannot_fill_the_memory() -> None:
    for number in range(1000):
        read_header(b64url(compact({"alg": "RS256", "kid": str(number)})))
    assert read_header.cache_info().currsize <= 256


def test_the_largest_token() -> None:
    room = MAX_TOKEN_BYTES - len(MAKER.token(x=""))
    largest = MAKER.token(x="y" * (room * 3 // 4 - 2))
    assert MAX_TOKEN_BYTES - 8 <= len(largest) <= MAX_TOKEN_BYTES
    parse(largest)
    with pytest.raises(TokenRefusedError) as caught:
        parse(largest + b"A" * 9)
    assert caught.value.reason is TokenReason.TOO_LARGE


PART = st.one_of(
    st.binary(max_size=40).map(b64url), st.sampled_from([b"", b"e30", b"eyJhbGciOiJSUzI1NiJ9", b"=", b"."])
)


@given(st.lists(PART, min_size=1, max_size=5))
def test_any_parts_are_parsed_or_refused(parts: list[bytes]) -> None:
    token = b".".join(parts)
    try:
        parsed = parse(token)
    except TokenRefusedError:
        return
    assert parsed.signing_input + b"." + b64url(parsed.signature) == token
