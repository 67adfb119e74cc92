"""Errors: what was seen, wanted and to be done, and what a script can tell from them."""

from __future__ import annotations

import pytest

from meshpki import errors
from meshpki.errors import ExitCode, InvalidValueError, MeshpkiError, OperatorNeededError, UsageError
from meshpki.tokens.reasons import TokenReason, TokenRefusedError


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MeshpkiError("a"), "a"),
        (MeshpkiError("a", wanted="b"), "a; wanted: b"),
        (MeshpkiError("a", todo="c"), "a; to do: c"),
        (MeshpkiError("a", wanted="b", todo="c", evidence=("d",)), "a; wanted: b; to do: c"),
    ],
)
def test_the_text_says_all_that_was_given(error: MeshpkiError, text: str) -> None:
    assert str(error) == text


def test_the_three_sentences_and_the_evidence_stay_apart() -> None:
    error = MeshpkiError("a", wanted="b", todo="c", evidence=("d", "e"))
    assert (error.seen, error.wanted, error.todo, error.evidence) == ("a", "b", "c", ("d", "e"))


def test_every_error_of_ours_has_the_one_root() -> None:
    kinds = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(kinds) > 5
    assert all(issubclass(kind, MeshpkiError) for kind in kinds)


@pytest.mark.parametrize(
    ("kind", "code"),
    [(MeshpkiError, ExitCode.ERROR), (UsageError, ExitCode.USAGE), (OperatorNeededError, ExitCode.OPERATOR_NEEDED)],
)
def test_exit_codes(kind: type[MeshpkiError], code: ExitCode) -> None:
    assert kind("x").exit_code is code


def test_exit_codes_are_those_that_were_promised() -> None:
    assert [code.value for code in ExitCode] == [0, 1, 2, 3, 4, 5]


def test_an_invalid_value_is_a_value_error_for_those_who_know_only_python() -> None:
    with pytest.raises(ValueError, match="x"):
        raise InvalidValueError("x")


def test_a_token_refusal_carries_its_reason_and_cluster() -> None:
    error = TokenRefusedError(TokenReason.EXPIRED, "old", wanted="new", cluster="c1")
    assert (error.reason, error.cluster, str(error)) == (TokenReason.EXPIRED, "c1", "old; wanted: new")


def test_reasons_are_all_different_and_say_whose_they_are() -> None:
    values = [reason.value for reason in TokenReason]
    assert len(set(values)) == len(values)
    assert all(value.startswith("token_") and value == value.lower() for value in values)
