"""Text for people: headings, labelled values, tables that become blocks where the terminal is narrow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from meshpki_cli.streams import OutputClosed
from meshpki_cli.text import NARROWEST, clean, columns, wrap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

GAP: Final = 2
LAST_COLUMN: Final = 24
"""A table's last column may be wrapped, but not to less than this."""

GOOD: Final = "green"
WARN: Final = "yellow"
BAD: Final = "red"
QUIET: Final = "dim"
TITLE: Final = "bold"


_STYLES: Final = {
    **dict.fromkeys(("ok", "yes", "passed", "running", "fresh", "done", "issued"), GOOD),
    **dict.fromkeys(
        ("overdue", "skipped", "suppressed", "different", "unknown", "disabled", "cut", "could not tell"), WARN
    ),
    **dict.fromkeys(
        ("broken", "problem", "failed", "expired", "denied", "stopped", "refused", "foreign", "no", "danger"), BAD
    ),
}


def style_of(word: str) -> str:
    """The style for a word that says how something is."""
    return _STYLES.get(word.lower(), "")


@dataclass(frozen=True, slots=True)
class Cell:
    """Text with a style. The style repeats what the words say: nothing is told by colour alone."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was examined: how it is in a word, what it is, what was seen, what to do about it."""

    mark: str
    subject: str
    text: str
    todo: str = ""
    optional: bool = False
    """Whether the text may be left out where it does not fit beside the subject."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would leave the process here, with a status of its own."""
        raise OutputClosed


class Page:
    """Writes to one stream, as wide as it is; in colour only on a terminal, and never when NO_COLOR is set."""

    def __init__(self, stream: TextIO) -> None:
        self.width = columns(stream)
        self._console = _Console(
            file=stream, width=self.width, highlight=False, markup=False, emoji=False, soft_wrap=True
        )

    def blank(self) -> None:
        """Leave a line free."""
        self._console.print()

    def line(self, text: str | Cell, *, indent: int = 0) -> None:
        """Write a line; on a terminal wrap it between words, the rest under its beginning."""
        cell = _cell(text)
        for part in wrap(cell.text, self.width - indent):
            self._console.print(Text(" " * indent + part, style=cell.style))

    def title(self, text: str) -> None:
        """Write a heading."""
        self.line(Cell(text, TITLE))

    def item(self, mark: str, text: str | Cell, *, indent: int = 0) -> None:
        """Write `mark` and beside it the text, wrapped under its own beginning."""
        cell = _cell(text)
        margin = indent + cell_len(mark) + 1
        head = " " * indent + clean(mark) + " "
        for part in wrap(cell.text, self.width - margin):
            self._print(Text(head + part, style=cell.style))
            head = " " * margin

    def pairs(self, pairs: Iterable[tuple[str, str | Cell]], *, indent: int = 0) -> None:
        """Write `label  value` lines, values in one column, each wrapped within it; without the empty ones."""
        cells = [(clean(label), _cell(value)) for label, value in pairs]
        cells = [(label, value) for label, value in cells if value.text]
        column = indent + GAP + max((cell_len(label) for label, _ in cells), default=0)
        for label, value in cells:
            head = Text((" " * indent + label).ljust(column), style=QUIET)
            if column > self.width // 2 or not self._fits([value.text], self.width - column):
                self._print(head)
                self.line(value, indent=indent + 2)
                continue
            for part in wrap(value.text, self.width - column):
                self._print(Text.assemble(head, (part, value.style)))
                head = Text(" " * column)

    def checks(self, checks: Sequence[Check]) -> None:
        """Write one line per check; its text goes under its subject where the width is too small for both."""
        marks = max((len(check.mark) for check in checks), default=0) + GAP
        subjects = max((cell_len(check.subject) for check in checks), default=0) + GAP
        for check in checks:
            texts = [clean(check.text), *([f"to do: {clean(check.todo)}"] if check.todo else [])]
            head = Text.assemble(
                (check.mark.ljust(marks), style_of(check.mark)), (clean(check.subject).ljust(subjects), "")
            )
            margin = marks + subjects
            if check.optional and cell_len(texts[0]) > self.width - margin:
                self._print(head)
                continue
            if not self._fits(texts, self.width - margin):
                self._print(head)
                margin = marks
                head = Text(" " * margin)
            for text in texts:
                for part in wrap(text, self.width - margin):
                    self._print(head.append(part))
                    head = Text(" " * margin)

    @staticmethod
    def _fits(texts: Sequence[str], room: int) -> bool:
        """Whether `room` columns are enough to wrap the texts in without breaking a word."""
        return room >= LAST_COLUMN and all(cell_len(word) <= room for text in texts for word in text.split(" "))

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str | Cell]], *, indent: int = 0) -> None:
        """Write rows under headers; where they do not fit the width, write each row as a block of labelled values.

        Only the last column is ever wrapped. A column in which no row has a value is left out.
        """
        cells = [[_cell(value) for value in row] for row in rows]
        kept = [index for index in range(len(headers)) if any(row[index].text for row in cells)]
        names = [headers[index] for index in kept]
        cells = [[row[index] for index in kept] for row in cells]
        if not cells:
            return
        widths = [max(cell_len(text) for text in column) for column in _columns(names, cells)]
        rest = self.width - indent - sum(widths[:-1]) - GAP * (len(widths) - 1)
        if rest >= min(widths[-1], LAST_COLUMN) and rest >= _longest_word(row[-1] for row in cells):
            self._rows([[Cell(name, QUIET) for name in names], *cells], widths[:-1], rest, indent)
        else:
            self._blocks(names, cells, indent)

    def _rows(self, rows: list[list[Cell]], widths: list[int], rest: int, indent: int) -> None:
        for row in rows:
            head = Text(" " * indent)
            for cell, width in zip(row, widths, strict=False):
                head.append(cell.text, style=cell.style)
                head.append(" " * (width - cell_len(cell.text) + GAP))
            margin = cell_len(head.plain)
            for part in wrap(row[-1].text, rest):
                self._print(head.append(part, style=row[-1].style))
                head = Text(" " * margin)

    def _print(self, text: Text) -> None:
        text.rstrip()
        self._console.print(text)

    def _blocks(self, names: list[str], rows: list[list[Cell]], indent: int) -> None:
        for number, row in enumerate(rows):
            if number:
                self.blank()
            self.line(Cell(row[0].text, row[0].style or TITLE), indent=indent)
            self.pairs(zip(names[1:], row[1:], strict=True), indent=indent + 2)


def _cell(value: str | Cell) -> Cell:
    cell = value if isinstance(value, Cell) else Cell(value)
    return Cell(clean(cell.text), cell.style)


def _columns(names: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[list[str]]:
    return [[name, *(row[index].text for row in rows)] for index, name in enumerate(names)]


def _longest_word(cells: Iterable[Cell]) -> int:
    words = (word for cell in cells for word in cell.text.split())
    return min(max((cell_len(word) for word in words), default=0), NARROWEST * 2)
