"""`meshpki plugins`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki.errors import ExitCode
from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki.plugins import PluginSet
    from meshpki_cli.page import Page


@dataclass(frozen=True, slots=True)
class PluginLine:
    """One plugin as it is listed."""

    name: str
    state: str
    origin: str
    summary: str
    options: tuple[str, ...] = ()


def run(output: OutputOption = Output.TABLE) -> int:
    """List platforms and plugins, with the health of each. Exit status 1 when one is broken.

    A plugin named in MESHPKI_DISABLED_PLUGINS (names separated by commas) is not even imported.
    """
    from meshpki import plugins

    found = plugins.load()
    lines = _lines(found)
    emit(output, {"plugins": lines}, lambda page: _show(page, lines))
    return ExitCode.ERROR if found.broken else ExitCode.DONE


def _lines(found: PluginSet) -> tuple[PluginLine, ...]:
    usable = [
        PluginLine(
            plugin.name,
            "ok",
            plugin.origin,
            plugin.platform.summary if plugin.platform else "offers no platform",
            tuple(option.name for option in plugin.platform.options) if plugin.platform else (),
        )
        for plugin in found.plugins
    ]
    failed = [
        PluginLine(
            failure.name,
            "BROKEN" if failure.broken else "disabled",
            failure.origin,
            f"{failure.stage}: {failure.reason}" if failure.broken else failure.reason,
        )
        for failure in found.failures
    ]
    return (*usable, *failed)


def _show(page: Page, lines: tuple[PluginLine, ...]) -> None:
    from meshpki_cli.page import Cell, style_of

    page.table(
        ("PLUGIN", "STATE", "FROM", "WHAT IT IS"),
        [(line.name, Cell(line.state, style_of(line.state)), line.origin, line.summary) for line in lines],
    )
    if any(line.options for line in lines):
        page.blank()
        page.line("Options of a platform: meshpki provision --platform NAME --help")
    if not lines:
        page.line("No plugin was found: is the distribution meshpki installed whole?")
