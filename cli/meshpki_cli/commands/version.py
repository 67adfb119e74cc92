"""`meshpki version`."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING

from meshpki_cli.options import OutputOption
from meshpki_cli.output import Output, emit

if TYPE_CHECKING:
    from meshpki_cli.page import Page

RESTS_ON = ("cryptography", "grpcio", "PyJWT", "protobuf", "pluggy", "typer")


@dataclass(frozen=True, slots=True)
class Versions:
    """What to write into a bug report."""

    meshpki: str
    plugin_api: int
    python: str
    system: str
    libraries: dict[str, str]


def run(output: OutputOption = Output.TABLE) -> None:
    """Show the version of meshpki, of its plugin contract, and of what it rests on."""
    from importlib import metadata

    from meshpki import __version__
    from meshpki.hooks import API_VERSION

    libraries = {name: metadata.version(name) for name in RESTS_ON}
    versions = Versions(__version__, API_VERSION, platform.python_version(), platform.platform(terse=True), libraries)
    emit(output, versions, lambda page: _show(page, versions))


def _show(page: Page, versions: Versions) -> None:
    page.pairs(
        [
            ("meshpki", versions.meshpki),
            ("plugin API", str(versions.plugin_api)),
            ("Python", versions.python),
            ("system", versions.system),
            *versions.libraries.items(),
        ]
    )
