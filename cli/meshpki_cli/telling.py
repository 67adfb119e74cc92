"""What is told of an error, and its forms: lines for people, a document for programs, a line of a log."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import typer

from meshpki.errors import ExitCode, MeshpkiError

if TYPE_CHECKING:
    from collections.abc import Mapping


class Form(StrEnum):
    """How stderr tells an error."""

    LINES = "lines"
    JSON = "json"
    YAML = "yaml"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Told:
    """An error in words, and the exit status that it leaves with."""

    name: str
    label: str
    seen: str
    status: int
    wanted: str = ""
    todo: str = ""
    evidence: tuple[str, ...] = ()
    traceback: str = ""
    """Empty unless it is to be shown."""


def of_ours(error: MeshpkiError) -> Told:
    """In the words that the error has."""
    name, status = type(error).__name__, int(error.exit_code)
    return Told(name, "error", error.seen, status, error.wanted, error.todo, error.evidence)


def of_command_line(error: typer.TyperException) -> Told:
    """In the parser's words, and where help is."""
    context = getattr(error, "ctx", None)
    todo = f"{context.command_path} --help" if context is not None else "meshpki --help"
    return Told("UsageError", "error", error.format_message(), error.exit_code, todo=todo)


def of_bug(error: BaseException) -> Told:
    """What nobody expected."""
    seen = f"meshpki itself failed: {type(error).__name__}: {error}"
    todo = "run the same again as `meshpki --debug ...`, and report the traceback that it shows"
    return Told(type(error).__name__, "error", seen, ExitCode.ERROR, todo=todo)


def tell(told: Told, form: Form) -> None:
    """Write it to stderr, with whatever looks like a secret cut out.

    Of each text by itself: half a key has no end, and what is cut out must not take the end of a document with it.
    """
    from meshpki.runtime.logs import redact

    told = Told(
        name=told.name,
        label=told.label,
        seen=redact(told.seen),
        status=told.status,
        wanted=redact(told.wanted),
        todo=redact(told.todo),
        evidence=tuple(map(redact, told.evidence)),
        traceback=redact(told.traceback),
    )
    match form:
        case Form.JSON:
            from meshpki_cli.documents import as_json_line

            _echo(as_json_line(_document(told)))
        case Form.YAML:
            from meshpki_cli.documents import as_yaml

            _echo(as_yaml(_document(told)))
        case Form.LOG:
            _log(told)
        case Form.LINES:
            _echo(told.traceback.rstrip("\n"))
            evidence = tuple(("evidence", line) for line in told.evidence)
            _lines((told.label, told.seen), ("wanted", told.wanted), ("to do", told.todo), *evidence)


def _document(told: Told) -> Mapping[str, object]:
    document = {
        "error": told.name,
        "seen": told.seen,
        "wanted": told.wanted,
        "todo": told.todo,
        "evidence": told.evidence,
        "exit_code": told.status,
    }
    return {**document, "traceback": told.traceback} if told.traceback else document


def _log(told: Told) -> None:
    import logging

    members = ("wanted", "todo", "evidence", "traceback")
    said = {name: value for name in members if (value := getattr(told, name))}
    logging.getLogger("meshpki").error(told.seen, extra=said)


def _lines(*parts: tuple[str, str]) -> None:
    """Write `label: text` lines, aligned and wrapped on a terminal, on one line each elsewhere."""
    from meshpki_cli.text import clean, columns, labelled

    for label, text in parts:
        if text:
            _echo("\n".join(labelled(label, clean(text), columns(sys.stderr))))


def _echo(text: str) -> None:
    if text:
        typer.echo(text, err=True)
