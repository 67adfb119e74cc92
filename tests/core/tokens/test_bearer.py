"""The token out of the authorization headers."""

from __future__ import annotations

import pytest

from meshpki.tokens.bearer import extract
from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.reasons import TokenReason, TokenRefusedError


@pytest.mark.parametrize("value", ["Bearer a.b.c", b"Bearer a.b.c"])
def test_text_or_bytes(value: str | bytes) -> None:
    assert extract([value]) == b"a.b.c"


def test_the_largest_token_passes() -> None:
    token = b"x" * MAX_TOKEN_BYTES
    assert extract([b"Bearer " + token]) == token


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], TokenReason.MISSING),
        (["Bearer "], TokenReason.MISSING),
        (["Bearer a.b.c", "Bearer a.b.c"], TokenReason.SEVERAL),
        (["Basic eA==", "Bearer a.b.c"], TokenReason.SEVERAL),
        ([""], TokenReason.MALFORMED),
        (["Bearer"], TokenReason.MALFORMED),
        (["bearer a.b.c"], TokenReason.MALFORMED),
        (["BEARER a.b.c"], TokenReason.MALFORMED),
        ([" Bearer a.b.c"], TokenReason.MALFORMED),
        (["Bearer\ta.b.c"], TokenReason.MALFORMED),
        (["Basic eA=="], TokenReason.MALFORMED),
        (["a.b.c"], TokenReason.MALFORMED),
        ([b"Bearer " + b"x" * (MAX_TOKEN_BYTES + 1)], TokenReason.TOO_LARGE),
        (["x" * (1 << 20)], TokenReason.TOO_LARGE),
    ],
)
def test_refused(values: list[str | bytes], reason: TokenReason) -> None:
    with pytest.raises(TokenRefusedError) as caught:
        extract(values)
    assert caught.value.reason is reason
    assert "x" * 20 not in str(caught.value)


@pytest.mark.parametrize("value", ["Bearer  a.b.c", "Bearer a.b.c ", "Bearer a.ä.c", "Bearer a.b.c\n"])
def test_what_is_no_token_is_left_for_the_parser_to_refuse(value: str) -> None:
    from meshpki.tokens.parse import parse

    with pytest.raises(TokenRefusedError) as caught:
        parse(extract([value]))
    assert caught.value.reason is TokenReason.MALFORMED
