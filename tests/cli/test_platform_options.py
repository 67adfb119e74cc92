"""Every kind of option that a platform can bring, as it is typed and as the platform gets it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from meshpki import plugins
from meshpki.hooks import API_VERSION, Detection, DetectRequest, Option, OptionKind, Platform
from meshpki_cli.platform_options import named_platform
from support import command_line

if TYPE_CHECKING:
    from meshpki.hooks import Params

OPTIONS = (
    Option("name", OptionKind.TEXT, "A text.", "joe"),
    Option("empty", OptionKind.TEXT, "A text without default.", ""),
    Option("port", OptionKind.INTEGER, "A number.", 7),
    Option("quick", OptionKind.FLAG, "Off at first.", False),
    Option("careful", OptionKind.FLAG, "On at first.", True),
    Option("item", OptionKind.LIST, "Repeated.", ("a", "b"), "THING"),
    Option("none", OptionKind.LIST, "Repeated, empty at first.", ()),
    Option("context-settings", OptionKind.TEXT, "A name that a parser could stumble over.", ""),
)
DEFAULTS: Params = {option.name: option.default for option in OPTIONS}


class Recorder:
    """A platform that keeps what it was asked with, and finds nothing possible."""

    def __init__(self) -> None:
        self.asked: Params = {}

    @plugins.hookimpl
    def platform(self) -> Platform:
        return Platform("recorder", "keeps what it is asked", API_VERSION, OPTIONS)

    @plugins.hookimpl
    def detect(self, request: DetectRequest) -> Detection:
        self.asked = dict(request.options)
        return Detection("1", "recorder", ())


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()
    monkeypatch.setattr(plugins, "load", lambda **_: plugins.of_objects({"recorder": made}))
    return made


@pytest.mark.parametrize(
    ("typed", "changed"),
    [
        ([], {}),
        (["--name", "ann"], {"name": "ann"}),
        (["--name=--odd"], {"name": "--odd"}),
        (["--name", ""], {"name": ""}),
        (["--port", "0"], {"port": 0}),
        (["--port", "-1"], {"port": -1}),
        (["--quick"], {"quick": True}),
        (["--no-careful"], {"careful": False}),
        (["--careful"], {}),
        (["--item", "c"], {"item": ("c",)}),
        (["--item", "c", "--item", "d e"], {"item": ("c", "d e")}),
        (["--none", "x"], {"none": ("x",)}),
        (["--context-settings", "x"], {"context-settings": "x"}),
    ],
    ids=str,
)
def test_what_is_typed_is_what_the_platform_gets(recorder: Recorder, typed: list[str], changed: Params) -> None:
    ran = command_line.invoke("provision", "--platform", "recorder", *typed, "--dry-run")
    assert ran.code == 3  # no mode is possible: the operator is needed
    assert recorder.asked == {**DEFAULTS, **changed}


@pytest.mark.parametrize(
    "typed",
    [["--port", "x"], ["--port", "1.5"], ["--no-quick"], ["--quick", "yes"], ["--nam", "x"]],
    ids=str,
)
def test_what_cannot_be_meant_is_refused_before_the_platform_is_asked(recorder: Recorder, typed: list[str]) -> None:
    ran = command_line.invoke("provision", "--platform", "recorder", *typed, "--dry-run")
    assert (ran.code, ran.out) == (2, "")
    assert recorder.asked == {}


def test_options_may_come_before_the_platform(recorder: Recorder) -> None:
    command_line.invoke("provision", "--port", "9", "--dry-run", "--platform", "recorder")
    assert recorder.asked["port"] == 9


@pytest.mark.parametrize(
    ("args", "name"),
    [
        ([], None),
        (["--platform"], None),
        (["--platform", "a"], "a"),
        (["--platform=a"], "a"),
        (["--platform="], ""),
        (["--yes", "--platform", "a", "--platform=b"], "b"),
        (["--platforms", "a"], None),
    ],
    ids=str,
)
def test_the_platform_is_found_before_the_rest_is_parsed(args: list[str], name: str | None) -> None:
    assert named_platform(args) == name
