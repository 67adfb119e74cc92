"""The operator's word: asked for on a terminal, demanded as `--yes` elsewhere."""

from __future__ import annotations

import sys

import typer

from meshpki.errors import OperatorNeededError


def obtain(question: str, *, yes: bool, otherwise: str) -> None:
    """Return once the operator agrees. Raises OperatorNeededError for a no, or when there is nobody to ask.

    `otherwise` says what else could be done where nobody can be asked.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise OperatorNeededError(
            "changes are pending, and there is no terminal to ask on",
            wanted="the operator's word",
            todo=f"run it again with --yes, {otherwise}",
        )
    if not typer.confirm(question, err=True):
        raise OperatorNeededError("not agreed to: nothing was changed", todo="run it again when you are ready")
