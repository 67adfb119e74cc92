"""Options of all commands that talk to a cluster: whose kubeconfig, which context, which credential programs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from meshpki.errors import MeshpkiError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.kube.access import Access

KubeconfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option("--kubeconfig", metavar="FILE", help="By default what $KUBECONFIG lists, or ~/.kube/config."),
]

ContextOption: TypeAlias = Annotated[
    str | None,
    typer.Option("--context", metavar="NAME", help="Context of the kubeconfig; by default its current one."),
]

AllowExecOption: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(
        "--allow-exec",
        metavar="PATH",
        help="Credential program that the kubeconfig may run, as an absolute path; repeatable.",
    ),
]

AudienceOption: TypeAlias = Annotated[str, typer.Option(metavar="NAME", help="Audience that the mesh's CA accepts.")]


def access(kubeconfig: Path | None, context: str | None, allow_exec: Sequence[Path] | None) -> Access:
    """Read the kubeconfig, strictly. Raises UsageError, MachineError."""
    from meshpki.kube import kubeconfig as kubeconfigs

    allowed = tuple(allow_exec or ())
    for program in allowed:
        if not program.is_absolute():
            raise UsageError(
                f"--allow-exec {str(program)!a} is no absolute path",
                wanted="the program's place from / on, so that no other of that name is run",
                todo=f"give what `command -v {program.name}` shows, if that is the one",
            )
    try:
        return kubeconfigs.load(kubeconfig, context, allow_exec=allowed)
    except MeshpkiError as error:
        error.todo = error.todo or "put it right in that kubeconfig, or name another one (--kubeconfig FILE)"
        raise


def kubectl(access: Access, kubeconfig: Path | None) -> str:
    """How kubectl reaches the same cluster, whatever its current context is by then."""
    words = ["kubectl", *(["--kubeconfig", str(kubeconfig)] if kubeconfig else []), "--context", access.context]
    return shlex.join(words)
