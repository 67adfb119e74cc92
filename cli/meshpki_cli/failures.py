"""The one place that turns errors into words on stderr and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Final

import typer

from meshpki.errors import ExitCode, MeshpkiError
from meshpki_cli import streams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DEBUG_VARIABLE: Final = "MESHPKI_DEBUG"
INTERRUPTED: Final = 130
"""128 + SIGINT, as shells have it."""
OUTPUT_CLOSED: Final = 141
"""128 + SIGPIPE: whoever read our output has had enough; nothing is said about it."""


class InterruptedRun(Exception):  # noqa: N818 - the user's wish, no error
    """Ctrl-C while something was half done: `state` says how things stand, `todo` how to go on."""

    def __init__(self, state: str, todo: str = "") -> None:
        super().__init__(state)
        self.state = state
        self.todo = todo


class _Settings:
    debug = False


def set_debug(wanted: bool) -> None:
    """Log in detail and show tracebacks from now on, or not."""
    _Settings.debug = wanted


def debugging() -> bool:
    """Whether details are wanted."""
    return _Settings.debug


def guarded(command: Callable[[], object], output: str) -> int:
    """Run a command's function; its exit status, or that of its error after having told it.

    With `output` "json" an error is one JSON object on stderr, so that a script reads both streams alike. What the
    command line's own parser raises passes, and is told by `parsed`.
    """
    from meshpki.runtime import logs

    logs.configure("debug" if _Settings.debug else "error")  # what fails is told as an error anyway
    try:
        with _heard_by_children():
            status = command()
        with streams.writing():
            pass  # what the command left in the buffer
    except (typer.Exit, typer.TyperException):
        raise
    except (Exception, InterruptedRun, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary: a person reads it next
        return _told(error, as_json=output == "json")
    return int(status) if isinstance(status, int) else ExitCode.DONE


@contextlib.contextmanager
def _heard_by_children() -> Iterator[None]:
    """Let processes that are started meanwhile know whether details are wanted: by the environment."""
    before = os.environ.pop(DEBUG_VARIABLE, None)
    if _Settings.debug:
        os.environ[DEBUG_VARIABLE] = "1"
    try:
        yield
    finally:
        os.environ.pop(DEBUG_VARIABLE, None)
        if before is not None:
            os.environ[DEBUG_VARIABLE] = before


def parsed(program: Callable[[], object]) -> int:
    """Run the whole program: the status it left with, or 2 for a command line that cannot be meant."""
    try:
        with streams.writing():
            status = program()
    except typer.TyperException as error:
        return _tell_usage(error)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary, for what happens before a command runs
        return _told(error, as_json=False)
    return status if isinstance(status, int) else ExitCode.DONE


def _told(error: BaseException, *, as_json: bool) -> int:
    match error:
        case MeshpkiError():
            _tell(error, as_json=as_json)
            return error.exit_code
        case streams.OutputClosed():
            streams.silence()
            return OUTPUT_CLOSED
        case InterruptedRun():
            _lines(("interrupted", error.state), ("to do", error.todo))
            return INTERRUPTED
        case KeyboardInterrupt() | typer.Abort():
            _lines(("interrupted", "nothing was changed"))
            return INTERRUPTED
        case _:
            _tell_bug(error)
            return ExitCode.ERROR


def _tell(error: MeshpkiError, *, as_json: bool) -> None:
    from meshpki.runtime.logs import redact

    if _Settings.debug:
        _tell_traceback(error)
    if as_json:
        import json

        document = {
            "error": type(error).__name__,
            "seen": error.seen,
            "wanted": error.wanted,
            "todo": error.todo,
            "evidence": list(error.evidence),
            "exit_code": int(error.exit_code),
        }
        typer.echo(redact(json.dumps(document, ensure_ascii=False)), err=True)
        return
    evidence = tuple(("evidence", line) for line in error.evidence)
    _lines(("error", error.seen), ("wanted", error.wanted), ("to do", error.todo), *evidence)


def _tell_usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError":
        typer.echo(error.format_message(), err=True)
    else:
        todo = f"{context.command_path} --help" if context is not None else "meshpki --help"
        _lines(("error", error.format_message()), ("to do", todo))
    return error.exit_code


def _tell_bug(error: BaseException) -> None:
    if _Settings.debug:
        _tell_traceback(error)
    _lines(
        ("error", f"meshpki itself failed: {type(error).__name__}: {error}"),
        ("to do", "run the same again as `meshpki --debug ...`, and report the traceback that it shows"),
    )


def _tell_traceback(error: BaseException) -> None:
    import traceback

    from meshpki.runtime.logs import redact

    typer.echo(redact("".join(traceback.format_exception(error))), err=True, nl=False)


def _lines(*parts: tuple[str, str]) -> None:
    """Write `label: text` lines, aligned and wrapped on a terminal, on one line each elsewhere."""
    from meshpki.runtime.logs import redact
    from meshpki_cli.text import clean, columns, labelled

    for label, text in parts:
        if text:
            typer.echo("\n".join(labelled(label, clean(redact(text)), columns(sys.stderr))), err=True)
