from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from meshpki.identity import ServiceAccountRef
from meshpki_cli import durations
from meshpki_cli.documents import as_json, as_yaml, plain
from meshpki_cli.page import Cell, Check, Page
from meshpki_cli.text import UNLIMITED, clean, columns, labelled, wrap

WIDTHS = (30, 40, 60, 80, 120, 200)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def page(width: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Page, Terminal]:
    stream = Terminal()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    return Page(stream), stream


ROWS: list[tuple[str | Cell, ...]] = [
    ("default/client", Cell("fresh", "green"), "59m 12s", "spiffe://mesh.local/ns/default/sa/client", ""),
    ("default/server", "expired", "", "spiffe://mesh.local/ns/default/sa/server", "the CA is away since a while"),
]
HEADERS = ("WORKLOAD", "HEALTH", "VALID FOR", "SPIFFE ID", "DETAIL")


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_or_becomes_blocks(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(width, monkeypatch)
    drawn.table(HEADERS, ROWS)
    lines = stream.getvalue().splitlines()
    longest_word = max(len(word) for line in lines for word in line.split())
    assert max(map(len, lines)) <= max(width, longest_word + 4)
    assert not [line for line in lines if line != line.rstrip()]
    shown = " ".join(stream.getvalue().split())
    for row in ROWS:
        for value in row:
            text = value.text if isinstance(value, Cell) else value
            assert text in shown


def test_a_wide_table_has_a_row_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(200, monkeypatch)
    drawn.table(HEADERS, ROWS)
    header, first, second = stream.getvalue().splitlines()
    assert header.split() == ["WORKLOAD", "HEALTH", "VALID", "FOR", "SPIFFE", "ID", "DETAIL"]
    assert first.index("spiffe") == second.index("spiffe") == header.index("SPIFFE")


def test_a_column_without_values_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(80, monkeypatch)
    drawn.table(("NAME", "NOTHING", "HEALTH"), [("a", "", "ok"), ("b", "", "ok")])
    assert "NOTHING" not in stream.getvalue()


def test_a_table_without_rows_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(80, monkeypatch)
    drawn.table(("NAME",), [])
    assert stream.getvalue() == ""


def test_each_stream_is_as_wide_as_its_own_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is one of the two may be a pipe, or another terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 57, 0, 0))
    with os.fdopen(theirs, "w") as stream:
        assert columns(stream) == 57
        monkeypatch.setenv("COLUMNS", "91")
        assert columns(stream) == 91
    os.close(ours)


def test_what_is_no_terminal_gets_whole_lines() -> None:
    stream = io.StringIO()
    Page(stream).pairs([("path", "word " * 200)])
    assert len(stream.getvalue().splitlines()) == 1
    assert columns(stream) == UNLIMITED


@pytest.mark.parametrize("width", WIDTHS)
def test_checks_fit(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(width, monkeypatch)
    drawn.checks(
        [
            Check("passed", "default/client gets a certificate", "serial 1234, until tomorrow", optional=True),
            Check("FAILED", "an expired token is refused", "the CA was away", "look at its log"),
        ]
    )
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= max(width, 45)
    assert "to do: look at its log" in " ".join(stream.getvalue().split())


def test_the_text_of_a_passed_check_is_left_out_where_it_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(40, monkeypatch)
    drawn.checks([Check("passed", "default/client gets a certificate", "serial 1234", optional=True)])
    assert stream.getvalue().splitlines() == ["passed  default/client gets a certificate"]


def test_markup_in_data_is_data(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(80, monkeypatch)
    drawn.line("[bold]not markup[/bold] :smile:")
    assert stream.getvalue() == "[bold]not markup[/bold] :smile:\n"


EVIL = "\x1b]0;pwned\x07 \x9b2J \r\n\u202e"


@pytest.mark.parametrize(
    "draw",
    [
        lambda page: page.line(EVIL),
        lambda page: page.title(EVIL),
        lambda page: page.item("+", EVIL),
        lambda page: page.item(EVIL, "x"),
        lambda page: page.pairs([(EVIL, EVIL)]),
        lambda page: page.table(("NAME", "VALUE"), [(EVIL, EVIL)]),
        lambda page: page.table(("NAME", "VALUE"), [(EVIL, EVIL + "long" * 50)]),
        lambda page: page.checks([Check("ok", EVIL, EVIL, EVIL)]),
    ],
)
def test_nothing_written_steers_the_terminal(draw: Callable[[Page], None], monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, stream = page(60, monkeypatch)
    draw(drawn)
    assert "pwned" in stream.getvalue()
    assert all(line.isprintable() for line in stream.getvalue().split("\n"))


@given(st.text())
def test_clean_text_holds_no_control_character(text: str) -> None:
    assert clean(text).isprintable() or not text


@given(st.text(), st.integers(30, 200))
def test_wrapping_keeps_every_word(text: str, width: int) -> None:
    cleaned = clean(text)
    assert " ".join(wrap(cleaned, width)).split() == cleaned.split()


def test_labelled_lines_hang() -> None:
    assert labelled("error", "one two three four five six seven", 20) == [
        "error: one two three",
        "    four five six",
        "    seven",
    ]


@pytest.mark.parametrize(("text", "seconds"), [("1s", 1), ("90s", 90), ("30m", 1800), ("24h", 86400), ("7d", 604800)])
def test_durations_are_read(text: str, seconds: int) -> None:
    assert durations.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "1", "h", "0s", "-1h", "1.5h", "1h30m", " 1h", "1H", "٣h", "1h\n", "9" * 12 + "s"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    import typer

    with pytest.raises(typer.BadParameter):
        durations.parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "0s"),
        (0, "0s"),
        (59, "59s"),
        (60, "1m"),
        (3599, "59m 59s"),
        (86399, "23h 59m"),
        (90000, "1d 1h"),
        (86400, "1d"),
    ],
)
def test_durations_are_written(seconds: int, text: str) -> None:
    assert durations.show_duration(seconds) == text


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    account: ServiceAccountRef
    path: Path


@dataclass(frozen=True, slots=True)
class Record:
    colour: Colour
    serial: int
    inner: tuple[Inner, ...]
    counts: dict[Colour, int]
    nothing: None = None
    secret: str = field(default="hunter2", repr=False)


RECORD = Record(Colour.RED, 2**127, (Inner(ServiceAccountRef("a", "b"), Path("/x")),), {Colour.RED: 1})


def test_records_become_documents_without_their_secrets() -> None:
    assert plain(RECORD) == {
        "colour": "red",
        "serial": f"{2**127:x}",
        "inner": [{"account": "a/b", "path": "/x"}],
        "counts": {"red": 1},
        "nothing": None,
    }


def test_json_and_yaml_agree() -> None:
    assert json.loads(as_json(RECORD)) == yaml.safe_load(as_yaml(RECORD)) == plain(RECORD)
