"""The token of a call: one header, one token, and nothing of it in a repr or an error."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from meshpki.agent.node.token import AUTHORIZATION, ISTIO_HEADER, check_header, token_of
from meshpki.errors import UsageError
from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.reasons import TokenReason, TokenRefusedError
from support.agent_process import CANARY, fake_token
from support.tokens import NOW, TokenMaker

GOOD = fake_token(expires_at=NOW)
RAW = GOOD.encode()


@pytest.mark.parametrize(
    "metadata",
    [
        ((ISTIO_HEADER, RAW),),
        ((ISTIO_HEADER, b"Bearer " + RAW),),
        ((ISTIO_HEADER, RAW + b"\n"),),
        ((ISTIO_HEADER, b" \t" + RAW + b"\r\n"),),
        ((AUTHORIZATION, f"Bearer {GOOD}"),),
        (("user-agent", "envoy"), (ISTIO_HEADER, RAW), ("x", "y")),
    ],
)
def test_the_same_token_however_it_is_brought(metadata: tuple[tuple[str, str | bytes], ...]) -> None:
    token = token_of(metadata, ISTIO_HEADER)
    assert token.text == GOOD
    assert token.key == hashlib.sha256(RAW).digest()
    assert token.ends == NOW
    assert CANARY not in repr(token)


def test_another_header_may_be_named_and_then_istios_counts_no_more() -> None:
    assert token_of((("x-token", GOOD),), "x-token").text == GOOD
    assert token_of(((AUTHORIZATION, f"Bearer {GOOD}"),), AUTHORIZATION).text == GOOD
    with pytest.raises(TokenRefusedError) as caught:
        token_of(((ISTIO_HEADER, RAW),), "x-token")
    assert caught.value.reason is TokenReason.MISSING


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), TokenReason.MISSING),
        ((("user-agent", "envoy"),), TokenReason.MISSING),
        (((ISTIO_HEADER, b""),), TokenReason.MISSING),
        (((ISTIO_HEADER, b"\n"),), TokenReason.MISSING),
        (((ISTIO_HEADER, b"Bearer "),), TokenReason.MISSING),
        (((ISTIO_HEADER, RAW), (ISTIO_HEADER, RAW)), TokenReason.SEVERAL),
        (((ISTIO_HEADER, RAW), (AUTHORIZATION, f"Bearer {GOOD}")), TokenReason.SEVERAL),
        (((ISTIO_HEADER, b""), (AUTHORIZATION, f"Bearer {GOOD}")), TokenReason.SEVERAL),
        (((AUTHORIZATION, GOOD),), TokenReason.MALFORMED),
        (((AUTHORIZATION, f"bearer {GOOD}"),), TokenReason.MALFORMED),
        (((AUTHORIZATION, f"Basic {GOOD}"),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, b"Bearer Bearer " + RAW),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, RAW + b"," + RAW),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, RAW + b"\n" + RAW),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, RAW.replace(b".", b"\0.", 1)),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, b"\xff\xfe"),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, "ключ.ключ.ключ"),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, b"not a token"),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, b"e30.W10.x"),), TokenReason.MALFORMED),
        (((ISTIO_HEADER, b"A" * (MAX_TOKEN_BYTES + 1)),), TokenReason.TOO_LARGE),
        (((ISTIO_HEADER, b"A" * (1 << 20)),), TokenReason.TOO_LARGE),
    ],
)
def test_what_is_no_single_token_is_refused(metadata: tuple[tuple[str, str | bytes], ...], reason: TokenReason) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        token_of(metadata, ISTIO_HEADER)
    assert caught.value.reason is reason
    assert CANARY not in f"{caught.value!r} {caught.value} {caught.value.__cause__!r}"
    assert RAW.split(b".")[1].decode() not in str(caught.value)


def test_tokens_that_differ_in_one_byte_have_nothing_in_common() -> None:
    maker, other = TokenMaker(), TokenMaker(slot=1)
    claims = maker.claims(now=time.time())
    first, forged = maker.sign(claims), other.sign(claims)
    assert first.rsplit(b".", 1)[0] == forged.rsplit(b".", 1)[0]
    keys = {token_of(((ISTIO_HEADER, token),), ISTIO_HEADER).key for token in (first, forged, first[:-1], RAW)}
    assert len(keys) == 4


def told_of(value: bytes) -> str:
    try:
        token_of(((ISTIO_HEADER, value),), ISTIO_HEADER)
    except TokenRefusedError as error:
        return str(error)
    return ""


OF_OURS = "".join(map(told_of, (b"?", b"", b"\xff", b"a.b.c", b"e30.e30.")))
"""Words that stand in what is told, whatever the token: hypothesis finds `-bin` in our sources, and tries that."""


@given(st.binary(max_size=200))
@example(b"-bin")
def test_any_bytes_are_a_token_or_refused(value: bytes) -> None:
    for metadata in (((ISTIO_HEADER, value),), ((ISTIO_HEADER, b"e30.e30." + value),)):
        try:
            token = token_of(metadata, ISTIO_HEADER)
        except TokenRefusedError as error:
            text = value.decode("latin-1")
            assert error.__context__ is None or text not in str(error) or text in OF_OURS or len(value) < 4
        else:
            assert token.text.isascii()
            assert token.text.count(".") == 2


@pytest.mark.parametrize(
    ("given_name", "name"), [("Authorization", "authorization"), ("X-Token-bin", "x-token-bin"), ("a", "a")]
)
def test_header_names_are_taken_as_grpc_spells_them(given_name: str, name: str) -> None:
    assert check_header(given_name) == name


@pytest.mark.parametrize("name", ["", ":path", "grpc-timeout", "GRPC-x", "a b", "ä", "x\n", "a" * 101])
def test_names_that_no_header_may_have_are_refused(name: str) -> None:
    with pytest.raises(UsageError):
        check_header(name)
