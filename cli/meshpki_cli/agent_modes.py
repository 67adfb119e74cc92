"""Which options of `meshpki agent run` belong to one of its modes only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Collection

    import typer

POD_ONLY: Final = (
    "--token-file",
    "--ca-renewal-address",
    "--shared-socket-directory",
    "--secret-files",
    "--files",
    "--files-mode",
    "--files-owner",
    "--files-command",
    "--files-signal",
)
NODE_ONLY: Final = ("--token-header", "--max-identities", "--max-in-flight")


def given(context: typer.Context) -> frozenset[str]:
    """The options that somebody wrote, also those written with the value that they have anyway."""
    sources = {each: context.get_parameter_source(each.name) for each in context.command.params if each.name}
    return frozenset(each.opts[0] for each, source in sources.items() if source and source.name != "DEFAULT")


def refuse_foreign(options: Collection[str], *, node: bool) -> None:
    """Raise UsageError if one of these belongs to the other mode: it would be ignored, and nobody would know."""
    foreign = [option for option in (POD_ONLY if node else NODE_ONLY) if option in options]
    if not foreign:
        return
    here, there = ("node mode (--node)", "pod mode") if node else ("pod mode", "node mode (--node)")
    it, belongs = ("it", "belongs") if len(foreign) == 1 else ("them", "belong")
    raise UsageError(
        f"{', '.join(foreign)} in {here}",
        wanted=f"none: {' and '.join(foreign)} {belongs} to {there}",
        todo=f"leave {it} out, or {'leave out --node' if node else 'add --node'}",
    )
