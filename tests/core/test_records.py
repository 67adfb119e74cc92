"""What a plugin may answer: one table of wrong records per check, each refused for its own reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki import records
from meshpki.errors import InvalidValueError
from meshpki.hooks import (
    API_VERSION,
    Change,
    Detection,
    Evidence,
    Mode,
    NotPossible,
    Option,
    OptionKind,
    Platform,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.hooks import Effect, Params


def no_effect(state_dir: Path, params: Params) -> Effect:
    raise NotImplementedError


OPTION = Option("ca-port", OptionKind.INTEGER, "where it listens", 0)
PLATFORM = Platform("acme", "what it is", API_VERSION, (OPTION,), {"acme.file": no_effect})
CHANGE = Change("ca.material", "acme.file", "title", "why", {"path": "x", "names": ("a", "b"), "port": 1, "on": True})
DETECTION = Detection("v1", "acme", (Mode.SDS, Mode.FILE_MOUNT), (Evidence("q", "a", "s"),), {"tokens": True})


def test_good_records_pass() -> None:
    assert records.check_platform(PLATFORM, name="acme") == PLATFORM
    assert records.check_changes((CHANGE,), PLATFORM) == (CHANGE,)
    assert records.check_detection(DETECTION) == DETECTION
    assert records.check_not_possible(NotPossible("why", ("way",))) == NotPossible("why", ("way",))
    assert records.api_version_problem(PLATFORM) == ""


def wrong_platforms() -> dict[str, tuple[object, str]]:
    def with_option(**change: Any) -> Platform:  # Any: wrong types are the point
        return replace(PLATFORM, options=(replace(OPTION, **change),))

    return {
        "none": (None, "a Platform"),
        "a class": (Platform, "a Platform"),
        "other name": (replace(PLATFORM, name="other"), "one name for both"),
        "name in capitals": (replace(PLATFORM, name="ACME"), "lower case"),
        "empty summary": (replace(PLATFORM, summary=""), "non-empty"),
        "options as a list": (replace(PLATFORM, options=[OPTION]), "a tuple of Option"),  # type: ignore[arg-type]
        "an option that is text": (replace(PLATFORM, options=("x",)), "a Option"),  # type: ignore[arg-type]
        "an option twice": (replace(PLATFORM, options=(OPTION, OPTION)), "each once"),
        "option in capitals": (with_option(name="Port"), "lower case"),
        "option with dashes": (with_option(name="--port"), "lower case"),
        "option with underscore": (with_option(name="ca_port"), "lower case"),
        "option of the command line": (with_option(name="yes"), "keep for itself"),
        "kind as text": (with_option(kind="integer"), "an OptionKind"),
        "no help": (with_option(help=""), "non-empty"),
        "default of another type": (with_option(default="0"), "integer"),
        "truth value for a number": (with_option(default=True), "integer"),
        "list default": (with_option(kind=OptionKind.LIST, default=["a"]), "a tuple of texts"),
        "float default": (with_option(default=1.5), "text, an integer"),
        "effects as a list": (replace(PLATFORM, effects=[]), "a mapping"),  # type: ignore[arg-type]
        "effect that cannot be called": (replace(PLATFORM, effects={"acme.file": 1}), "can be called"),  # type: ignore[dict-item]
        "effect of a bad kind": (replace(PLATFORM, effects={"acme file": no_effect}), "words of"),
    }


@pytest.mark.parametrize("name", wrong_platforms())
def test_a_wrong_platform_is_refused(name: str) -> None:
    answer, wanted = wrong_platforms()[name]
    with pytest.raises(InvalidValueError, match=wanted):
        records.check_platform(answer, name="acme")


WRONG_CHANGES: dict[str, tuple[Callable[[], object], str]] = {
    "list": (lambda: [CHANGE], "a tuple of Change"),
    "text": (lambda: ("x",), "a Change"),
    "twice": (lambda: (CHANGE, CHANGE), "each once"),
    "id": (lambda: (replace(CHANGE, id="a b"),), "words of"),
    "empty id": (lambda: (replace(CHANGE, id=""),), "words of"),
    "path as id": (lambda: (replace(CHANGE, id="../x"),), "words of"),
    "kind": (lambda: (replace(CHANGE, kind="acme.other"),), "acme.file"),
    "title": (lambda: (replace(CHANGE, title=""),), "non-empty"),
    "why": (lambda: (replace(CHANGE, why=None),), "text"),  # type: ignore[arg-type]
    "diff": (lambda: (replace(CHANGE, diff=["x"]),), "a tuple of str"),  # type: ignore[arg-type]
    "nested": (lambda: (replace(CHANGE, params={"a": {"b": 1}}),), "text, an integer"),  # type: ignore[dict-item]
    "float": (lambda: (replace(CHANGE, params={"a": 1.0}),), "text, an integer"),  # type: ignore[dict-item]
    "none": (lambda: (replace(CHANGE, params={"a": None}),), "text, an integer"),  # type: ignore[dict-item]
    "bytes": (lambda: (replace(CHANGE, params={"a": b"x"}),), "text, an integer"),  # type: ignore[dict-item]
    "list in params": (lambda: (replace(CHANGE, params={"a": ["x"]}),), "text, an integer"),  # type: ignore[dict-item]
    "number in a tuple": (lambda: (replace(CHANGE, params={"a": (1,)}),), "text"),  # type: ignore[dict-item]
    "number as a name": (lambda: (replace(CHANGE, params={1: "x"}),), "text"),  # type: ignore[dict-item]
    "huge integer": (lambda: (replace(CHANGE, params={"a": 2**53}),), "an integer of at most"),
    "surrogate": (lambda: (replace(CHANGE, params={"a": "\ud800"}),), "UTF-8"),
    "params": (lambda: (replace(CHANGE, params=[]),), "a mapping"),  # type: ignore[arg-type]
    "too many": (lambda: tuple(replace(CHANGE, id=f"c{i}") for i in range(1001)), "at most 1000"),
}


@pytest.mark.parametrize("name", WRONG_CHANGES)
def test_wrong_changes_are_refused(name: str) -> None:
    make, wanted = WRONG_CHANGES[name]
    with pytest.raises(InvalidValueError, match=wanted):
        records.check_changes(make(), PLATFORM)


WRONG_DETECTIONS: dict[str, tuple[object, str]] = {
    "none": (None, "a Detection"),
    "version": (replace(DETECTION, version=1), "text"),  # type: ignore[arg-type]
    "mode as text": (replace(DETECTION, modes=("sds",)), "a Mode"),  # type: ignore[arg-type]
    "modes upside down": (replace(DETECTION, modes=(Mode.FILE_MOUNT, Mode.SDS)), "highest rung first"),
    "mode twice": (replace(DETECTION, modes=(Mode.SDS, Mode.SDS)), "at most once"),
    "evidence": (replace(DETECTION, evidence=(("q", "a", "s"),)), "a Evidence"),  # type: ignore[arg-type]
    "facts": (replace(DETECTION, facts={"a": 1.5}), "text, an integer"),  # type: ignore[dict-item]
    "node versions": (replace(DETECTION, node_versions="v1"), "a tuple of str"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG_DETECTIONS)
def test_a_wrong_detection_is_refused(name: str) -> None:
    answer, wanted = WRONG_DETECTIONS[name]
    with pytest.raises(InvalidValueError, match=wanted):
        records.check_detection(answer)


@pytest.mark.parametrize("version", [0, -1, API_VERSION + 1, True, "1", None])
def test_an_api_version_that_we_do_not_speak_is_a_sentence(version: Any) -> None:  # Any: wrong types are the point
    assert "to do" in records.api_version_problem(replace(PLATFORM, api_version=version))


def test_what_passed_is_a_copy_that_the_plugin_cannot_change() -> None:
    params: dict[str, str | int | bool | tuple[str, ...]] = {"path": "x"}
    (checked,) = records.check_changes((replace(CHANGE, params=params),), PLATFORM)
    params["path"] = "/etc"
    assert checked.params == {"path": "x"}


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(), st.lists))
def test_any_value_is_taken_or_refused_never_an_accident(value: object) -> None:
    try:
        checked = records.check_value(value, "it")
    except InvalidValueError:
        return
    assert checked == value
