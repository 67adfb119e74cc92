"""Where data leaves: stdout, as text for people, JSON or YAML."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki_cli.streams import results, writing

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki_cli.page import Page


class Output(StrEnum):
    """How a command writes what it found."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


def emit(output: Output, record: object, view: Callable[[Page], None]) -> None:
    """Write `record` as one JSON or YAML document, or let `view` draw it for people.

    Raises OutputClosed when nobody reads any more, MachineError when stdout cannot take it.
    """
    with writing():
        _write(output, record, view)


def _write(output: Output, record: object, view: Callable[[Page], None]) -> None:
    match output:
        case Output.TABLE:
            from meshpki_cli.page import Page

            view(Page(results()))
        case Output.JSON:
            from meshpki_cli.documents import as_json

            results().write(as_json(record) + "\n")
        case Output.YAML:
            from meshpki_cli.documents import as_yaml

            results().write(as_yaml(record) + "\n")
