"""Commands that are imported when they are called, and not before."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import typer.main
from typer.core import TyperCommand, TyperGroup
from typer.models import TyperPath

from meshpki_cli import failures

if TYPE_CHECKING:
    from collections.abc import Sequence

    # Typer carries its parser inside and publishes no names for these three types.
    from typer._click.core import Command as AnyCommand
    from typer._click.core import Context
    from typer._click.formatting import HelpFormatter

    from meshpki_cli.catalog import Entry, Section


class Command(TyperCommand):
    """A command whose function returns its exit status, and whose errors are told in one way."""

    def invoke(self, ctx: Context) -> None:
        """Run the command's function; leave by `typer.Exit` with its status or that of its error."""
        output, serves = str(ctx.params.get("output")), "log_level" in ctx.params
        raise typer.Exit(failures.guarded(lambda: super(Command, self).invoke(ctx), output, serves=serves))


class _Path(TyperPath):
    """A path that is named: an empty text is a variable that was never set, and would be where we happen to stand."""

    def __init__(self, like: TyperPath) -> None:
        self.__dict__.update(like.__dict__)

    # Any: what a parser converts is its own affair and passed through.
    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Refuse an empty one."""
        if value == "":
            self.fail("it is empty; wanted: a path", param, ctx)
        return super().convert(value, param, ctx)


class LazyGroup(TyperGroup):
    """A group that knows names and help lines, and imports a command when it is asked for."""

    # Any: what Typer hands to a group's constructor is its own affair and passed through.
    def __init__(self, *, sections: Sequence[Section] = (), **attributes: Any) -> None:
        super().__init__(**attributes)
        self.sections = sections
        self.entries = {entry.name: entry for section in sections for entry in section.entries}
        self.commands = {name: TyperCommand(name, help=entry.help) for name, entry in self.entries.items()}

    def get_command(self, ctx: Context, cmd_name: str) -> AnyCommand | None:  # noqa: ARG002
        """Import and build the command of that name; None when there is none."""
        entry = self.entries.get(cmd_name)
        return None if entry is None else build(entry)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:  # noqa: ARG002
        """Write the sections with their help lines, without importing a command."""
        width = max(len(name) for name in self.entries)
        for section in self.sections:
            with formatter.section(section.title):
                formatter.write_dl([(entry.name.ljust(width), entry.help) for entry in section.entries])


def build(entry: Entry) -> AnyCommand:
    """Make the command or group of a table entry. This is where a command's module is imported."""
    from meshpki_cli.catalog import Section

    if entry.children:
        sections = (Section("Commands", entry.children),)
        return LazyGroup(
            name=entry.name, help=entry.help, sections=sections, rich_markup_mode=None, no_args_is_help=True
        )
    module = importlib.import_module(f"meshpki_cli.commands.{entry.module}")
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command(entry.name, cls=getattr(module, "COMMAND", Command))(module.run)
    command = typer.main.get_command(app)
    for parameter in command.params:
        if isinstance(parameter.type, TyperPath):
            parameter.type = _Path(parameter.type)
    return command
