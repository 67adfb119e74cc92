"""No text of ours holds a token: neither an error, nor a repr, nor a log line, nor a chained exception."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

import pytest

from meshpki.runtime.logs import JsonFormatter
from meshpki.tokens.bearer import extract
from meshpki.tokens.inspect import inspect
from meshpki.tokens.parse import parse
from meshpki.tokens.reasons import TokenRefusedError
from support.tokens import NOW, BrokenToken, TokenMaker, verifier

if TYPE_CHECKING:
    from collections.abc import Iterator

MAKER = TokenMaker()
WINDOW = 16
CLAIMED = ("c2b1a0f9", "5a4b3c2d", "0b0e4f3a", "web-7d4b9c6f5", "system:serviceaccount:default", "attacker", "passwd")
"""Parts of what the tokens of the catalogue claim, besides audience and times."""


def windows(token: bytes) -> set[str]:
    """Every run of 16 characters of the encoded token; the 1 MiB one repeats itself."""
    text = token[:20_000].decode("latin-1")
    return {text[place : place + WINDOW] for place in range(len(text) - WINDOW + 1)}


def texts_of(error: BaseException) -> Iterator[str]:
    yield "".join(traceback.format_exception(error))
    seen: BaseException | None = error
    while seen is not None:
        yield str(seen)
        yield repr(seen)
        # Attributes too: the errors of the json and codecs modules keep the whole document in one.
        yield repr(
            {
                name: value
                for name in dir(seen)
                if not name.startswith("_") and name != "with_traceback" and not callable(value := getattr(seen, name))
            }
        )
        seen = seen.__cause__ or seen.__context__


def assert_silent(text: str, token: bytes) -> None:
    runs = windows(token)
    assert not any(text[place : place + WINDOW] in runs for place in range(len(text) - WINDOW + 1)), "part of the token"
    assert not any(claimed in text for claimed in CLAIMED), "a claim of the token"


@pytest.mark.parametrize("broken", MAKER.broken(), ids=str)
def test_no_refusal_shows_any_of_the_token(broken: BrokenToken, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(TokenRefusedError) as caught:
        verifier(MAKER).verify(broken.token, NOW)
    if broken.name == "garbage":
        return  # 18 bytes of English
    for text in texts_of(caught.value):
        if broken.reason == "token_wrong_audience":
            continue  # which names the audience on purpose
        assert_silent(text, broken.token)
    for record in caplog.records:
        assert_silent(JsonFormatter().format(record), broken.token)


def test_the_search_finds_what_it_looks_for() -> None:
    token = MAKER.token()
    with pytest.raises(AssertionError):
        assert_silent(f"refused {token[40:60].decode()}", token)
    with pytest.raises(AssertionError):
        assert_silent("refused c2b1a0f9-e8d7", token)


def test_a_wrong_audience_names_that_alone() -> None:
    token = MAKER.token(audience=["other"])
    with pytest.raises(TokenRefusedError) as caught:
        verifier(MAKER).verify(token, NOW)
    for text in texts_of(caught.value):
        assert_silent(text, token)


def test_a_bearer_refusal_shows_nothing() -> None:
    token = MAKER.token()
    for values in ([token], [b"bearer " + token], [b"Bearer " + token] * 2, [b"Bearer " + token * 20]):
        with pytest.raises(TokenRefusedError) as caught:
            extract(values)
        for text in texts_of(caught.value):
            assert_silent(text, token)


def test_reprs_hold_none_of_it() -> None:
    token = MAKER.token()
    parsed = parse(token)
    assert repr(parsed) == "ParsedToken()"
    assert_silent(repr(verifier(MAKER)), token)


def test_an_inspection_holds_neither_token_nor_signature() -> None:
    token = MAKER.token()
    shown = repr(inspect(token, now=NOW, issuer=MAKER.issuer))
    assert not windows(token) & {shown[place : place + WINDOW] for place in range(len(shown))}


def test_a_good_token_leaves_no_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    verifier(MAKER).verify(MAKER.token(), NOW)
    assert caplog.records == []
