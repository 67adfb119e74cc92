"""What we accept, PyJWT accepts with the same claims; what it wrongly accepts, we refuse."""

from __future__ import annotations

import json
import time
import warnings

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.tokens.parse import parse
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from support.tokens import ABSENT, TokenMaker, compact, verifier

MAKERS = [TokenMaker(algorithm=algorithm) for algorithm in ("RS256", "PS256", "ES256", "ES384")]


def by_pyjwt(maker: TokenMaker, token: bytes) -> object:
    key = jwt.PyJWK(json.loads(maker.jwks())["keys"][0])
    return jwt.decode(
        token,
        key,
        algorithms=[maker.algorithm],
        audience="istio-ca",
        issuer=maker.issuer,
        leeway=30,
        options={"require": ["exp", "iat", "aud", "iss", "sub"], "enforce_minimum_key_length": True},
    )


CLAIMS = st.fixed_dictionaries(
    {},
    optional={
        "audience": st.sampled_from(["istio-ca", ["istio-ca"], ["x", "istio-ca"], ["x"], [], ABSENT, ["istio-ca", 1]]),
        "lifetime": st.sampled_from([1, 60, 3600, 86400, 10**6]),
        "nbf": st.one_of(st.just(ABSENT), st.integers(-100, 100).map(lambda shift: int(time.time()) + shift)),
        "jti": st.sampled_from([ABSENT, "x", 5]),
        "namespace": st.sampled_from(["default", "a-b", "A"]),
        "name": st.sampled_from(["web", "a.b", "a/b"]),
        "iss": st.sampled_from(["https://cluster.test", "https://other.test", 5]),
        "pod": st.sampled_from(["web-0", None]),
        "extra": st.one_of(st.integers(), st.text(max_size=5), st.lists(st.booleans(), max_size=3)),
    },
)
HEADERS = st.fixed_dictionaries(
    {}, optional={"typ": st.sampled_from(["JWT", "jwt"]), "kid": st.sampled_from(["", "key-1"])}
)


@given(st.sampled_from(MAKERS), CLAIMS, HEADERS)
@settings(max_examples=300)
def test_all_that_we_accept_pyjwt_accepts_with_the_same_claims(
    maker: TokenMaker, claims: dict[str, object], header: dict[str, object]
) -> None:
    token = maker.token(maker.header(**header), now=time.time(), **claims)
    try:
        caller = verifier(maker).verify(token, time.time())
    except TokenRefusedError:
        return
    decoded = by_pyjwt(maker, token)
    assert decoded == parse(token).claims
    assert isinstance(decoded, dict)
    assert decoded["sub"] == caller.service_account.subject


def test_the_property_is_not_empty() -> None:
    for maker in MAKERS:
        token = maker.token(now=time.time())
        verifier(maker).verify(token, time.time())
        assert by_pyjwt(maker, token) == parse(token).claims


def test_every_broken_token_stays_refused_where_pyjwt_refuses_it() -> None:
    """And the list of those where it does not is short, and known."""
    maker, now = MAKERS[0], time.time()
    accepted = set()
    for broken in maker.broken(now):
        with pytest.raises(TokenRefusedError):
            verifier(maker).verify(broken.token, now)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                by_pyjwt(maker, broken.token)
        except (jwt.PyJWTError, RecursionError, ValueError, TypeError):
            continue
        accepted.add(broken.name)
    assert {"duplicate sub", "duplicate alg", "exp text", "typ at+jwt", "padding", "jwk", "jku", "x5u"} <= accepted
    assert not {"alg none", "expired", "other audience", "another key under the same kid", "crit"} & accepted


# --- our own table after Wycheproof's JWS and JWK groups and the known attacks -------------------------------------


def pyjwt_accepts(maker: TokenMaker, token: bytes) -> bool:
    try:
        by_pyjwt(maker, token)
    except jwt.PyJWTError:
        return False
    return True


def attacks() -> dict[str, tuple[bytes, TokenReason]]:
    maker, now = MAKERS[0], int(time.time())
    text, head = compact(maker.claims(now=now)), compact(maker.header())
    return {
        "last sub wins": (
            maker.sign_raw(head, text[:-1] + b',"sub":"system:serviceaccount:kube-system:admin"}'),
            TokenReason.DUPLICATE_MEMBER,
        ),
        "last alg wins": (maker.sign_raw(head[:-1] + b',"alg":"RS256"}', text), TokenReason.DUPLICATE_MEMBER),
        "exp as text": (maker.token(now=now, exp=str(now + 600)), TokenReason.CLAIM_INVALID),
        "exp as float": (maker.token(now=now, exp=now + 600.5), TokenReason.CLAIM_INVALID),
        "access token": (maker.token(maker.header(typ="at+jwt"), now=now), TokenReason.HEADER_NOT_ALLOWED),
        "signature padded": (maker.token(now=now) + b"==", TokenReason.MALFORMED),
        "four megabytes": (maker.token(now=now, x="y" * 3_000_000), TokenReason.TOO_LARGE),
        "header brings a key": (maker.token(maker.header(jwk=maker.jwk()), now=now), TokenReason.HEADER_NOT_ALLOWED),
    }


@pytest.mark.parametrize("name", attacks())
def test_what_pyjwt_accepts_and_we_refuse(name: str) -> None:
    token, reason = attacks()[name]
    assert pyjwt_accepts(MAKERS[0], token)
    with pytest.raises(TokenRefusedError) as caught:
        verifier(MAKERS[0]).verify(token, time.time())
    assert caught.value.reason is reason
