"""`meshpki token inspect`."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from meshpki.errors import ExitCode, UsageError
from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki.tokens.inspect import Inspection
    from meshpki.tokens.keys import KeySet
    from meshpki_cli.page import Page

LIMIT: Final = 1 << 20
"""Bytes to read. The CA takes far less; the verdict on a longer token says so."""
_TOKEN: Final = re.compile(r"(?:Bearer\s+)?(?:eyJ|[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.)", re.IGNORECASE)


def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="File that holds the token, or - for stdin.")],
    *,
    audience: Annotated[str, typer.Option(metavar="NAME", help="Audience that the CA accepts.")] = "istio-ca",
    issuer: Annotated[
        str | None, typer.Option(metavar="URL", help="Issuer that the cluster should have; compared exactly.")
    ] = None,
    jwks: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The issuer's public keys; without them nothing is proven.")
    ] = None,
    require_pod: Annotated[bool, typer.Option(help="Whether the token must be bound to a pod.")] = True,
    output: OutputOption = Output.TABLE,
) -> int:
    """Explain, offline, whether a token is trustworthy, and why not.

    Exit status 0 when everything was examined and found well, 1 otherwise. The token comes from a file or stdin, never
    from the command line, which every process of this machine can read: kubectl create token NAME | meshpki token
    inspect -
    """
    from meshpki.tokens.inspect import inspect

    token = _read(file)
    keys = None if jwks is None else _keys(jwks)
    found = inspect(token, now=time.time(), audience=audience, issuer=issuer, keys=keys, require_pod=require_pod)
    emit(output, {"verdict": found.verdict, "findings": found.findings}, lambda page: _show(page, found))
    return ExitCode.DONE if found.trustworthy else ExitCode.ERROR


def _read(file: str) -> bytes:
    if file == "-":
        return sys.stdin.buffer.read(LIMIT).strip()
    if _TOKEN.match(file):
        raise UsageError(
            "a token was given as an argument: other processes and the shell's history have it now",
            wanted="a file that holds the token, or - for stdin",
            todo="put it into a file of mode 0600, or pipe it in; let the exposed one expire, or delete its pod",
        )
    from meshpki.runtime.files import machine_errors

    # No demand for a regular file: <(kubectl create token NAME) keeps the token off the disk.
    with machine_errors("could not read", Path(file)), Path(file).open("rb") as stream:
        return stream.read(LIMIT).strip()


def _keys(path: Path) -> KeySet:
    from meshpki.runtime.files import read_capped
    from meshpki.tokens import keys

    return keys.KeySet.from_jwks(read_capped(path, limit=keys.MAX_JWKS_BYTES))


def _show(page: Page, found: Inspection) -> None:
    from meshpki.tokens.inspect import Verdict
    from meshpki_cli.page import BAD, GOOD, WARN, Cell, Check

    page.checks(
        [
            Check("PROBLEM" if item.verdict is Verdict.PROBLEM else item.verdict, item.subject, item.text, item.todo)
            for item in found.findings
        ]
    )
    page.blank()
    match found.verdict:
        case Verdict.OK:
            page.line(Cell("Trustworthy.", GOOD))
        case Verdict.PROBLEM:
            page.line(Cell("Not trustworthy: the CA would refuse it.", BAD))
        case Verdict.UNKNOWN:
            page.line(Cell("Not proven: nothing wrong was found, but not everything could be examined.", WARN))
