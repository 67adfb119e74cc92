"""The narrator: 80 columns, no colour outside a terminal."""

from __future__ import annotations

import io

import pytest

from meshpki_demo.narrate import WIDTH, Narrator


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def play(stream: io.StringIO) -> str:
    tell = Narrator(stream)
    tell.title("A title")
    tell.step(1, "The first step")
    tell.command("meshpki provision --platform local --state-dir state --certificate-ttl 30s --yes --and more")
    tell.say("words and " * 30)
    tell.fact("serial", "0123456789abcdef0123456789abcdef")
    tell.output("x" * 200 + "\nshort")
    tell.good("all " * 40)
    tell.bad("not " * 40)
    tell.end("All as told.")
    return stream.getvalue()


def test_it_fits_80_columns_and_has_no_colour_in_a_file() -> None:
    text = play(io.StringIO())
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "\x1b" not in text
    assert " 1.  The first step" in text


def test_a_long_command_is_continued_as_a_shell_would_have_it() -> None:
    lines = play(io.StringIO()).splitlines()
    first = next(line for line in lines if "$ meshpki" in line)
    assert first.endswith(" \\")


def test_a_terminal_gets_colour_unless_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[32mok\x1b[0m" in play(Terminal())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in play(Terminal())
