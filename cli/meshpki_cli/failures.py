"""The one place that turns errors into words on stderr and an exit status."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import replace
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

import typer

from meshpki.errors import ExitCode, MeshpkiError
from meshpki_cli import early_signals, streams, telling
from meshpki_cli.telling import Form, Told

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

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
    form = Form.LINES


def set_debug(wanted: bool) -> None:
    """Log in detail and show tracebacks from now on, or not."""
    _Settings.debug = wanted


def debugging() -> bool:
    """Whether details are wanted."""
    return _Settings.debug


def heard_by_a_program() -> bool:
    """Whether a program reads stderr: then nothing stands there but a document, if anything goes wrong."""
    return _Settings.form in {Form.JSON, Form.YAML} and not sys.stderr.isatty()


def guarded(command: Callable[[], object], output: str, *, serves: bool = False) -> int:
    """Run a command's function; its exit status, or that of its error after having told it.

    With `output` "json" or "yaml" an error is one such document on stderr, so that a script reads both streams alike.
    One that `serves` has its log there: off a terminal its error is a line of that. It loads much before it begins, and
    handles signals itself then; until then they end it at once. What the command line's own parser raises passes, and
    is told by `parsed`.
    """
    from meshpki.runtime import hangup, logs

    logs.configure("debug" if _Settings.debug else "error")  # what fails is told as an error anyway
    _Settings.form = Form.LOG if serves and not sys.stderr.isatty() else _form(output)
    if serves:
        hangup.let_pass_while_loading()
    else:
        early_signals.usual()
    try:
        with _heard_by_children(), streams.for_results_alone():
            status = command()
        with streams.writing():
            pass  # what the command left in the buffer
    except (typer.Exit, typer.TyperException):
        raise
    except (Exception, InterruptedRun, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary: a person reads it next
        return _told(error)
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


def parsed(program: Callable[[], object], args: Sequence[str]) -> int:
    """Run the whole program: the status it left with, or 2 for a command line that cannot be meant."""
    _Settings.form = _form_in(args)
    try:
        with streams.writing():
            status = program()
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the boundary, for what happens before a command runs
        return _told(error)
    return status if isinstance(status, int) else ExitCode.DONE


def _form(output: str) -> Form:
    return Form(output) if output in {Form.JSON, Form.YAML} else Form.LINES


def _form_in(args: Sequence[str]) -> Form:
    """By the value of `--output` in a command line that nobody has parsed yet; the last one counts."""
    form = ""
    for word, following in zip_longest(args, args[1:], fillvalue=""):
        if word in {"-o", "--output"}:
            form = following
        elif word.startswith(("-o", "--output=")):
            form = word.removeprefix("--output=").removeprefix("-o")
    return _form(form)


def _told(error: BaseException) -> int:
    match error:
        case streams.OutputClosed():
            streams.silence()
            return OUTPUT_CLOSED
        case typer.TyperException() if type(error).__name__ == "NoArgsIsHelpError":
            typer.echo(error.format_message(), err=True)
            return error.exit_code
        case typer.TyperException():
            told = telling.of_command_line(error)
        case InterruptedRun():
            told = Told("Interrupted", "interrupted", error.state, INTERRUPTED, todo=error.todo)
        case KeyboardInterrupt() | typer.Abort():
            told = Told("Interrupted", "interrupted", "nothing was changed", INTERRUPTED)
        case MeshpkiError():
            told = _with_traceback(telling.of_ours(error), error)
        case _:
            told = _with_traceback(telling.of_bug(error), error)
    telling.tell(told, _Settings.form)
    return told.status


def _with_traceback(told: Told, error: BaseException) -> Told:
    if not _Settings.debug:
        return told
    import traceback

    return replace(told, traceback="".join(traceback.format_exception(error)))
