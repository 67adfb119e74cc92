"""What the story plays on: a private directory, the processes in it, and the sweeping afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki.errors import MeshpkiError
from meshpki.identity import ServiceAccountRef, SpiffeId, TrustDomain
from meshpki_demo import leftovers
from meshpki_demo.command import Meshpki
from meshpki_local.layout import Layout

if TYPE_CHECKING:
    from meshpki_demo.envoy import Envoy
    from meshpki_demo.narrate import Narrator

STATE: Final = "state"
TRUST_DOMAIN: Final = TrustDomain("mesh.local")
CLIENT: Final = ServiceAccountRef("default", "client")
SERVER: Final = ServiceAccountRef("default", "server")
LONGEST_BASE: Final = 20
"""Characters of a temporary directory below which the longest socket path of an installation still fits its 107."""
LOG_LINES: Final = 8


class NotAsToldError(MeshpkiError):
    """The story said that something would happen, and it did not."""


@dataclass(slots=True)
class Stage:
    """Everything the steps share. What is put on `closing` is closed before the directory is swept."""

    tell: Narrator
    directory: Path
    closing: ExitStack
    envoys: dict[ServiceAccountRef, Envoy] = field(default_factory=dict)
    provisioned: bool = False
    """Whether `provision` was begun and `deprovision` has not succeeded since."""

    @property
    def meshpki(self) -> Meshpki:
        """The command, at home in our directory: the state directory is `state`."""
        return Meshpki(self.directory)

    @property
    def layout(self) -> Layout:
        """Where everything of the installation stands."""
        return Layout(self.directory / STATE)

    def expect(self, holds: bool, text: str, otherwise: str = "") -> None:
        """Say `text` if it holds. Raises NotAsToldError, with `otherwise`, if not."""
        if not holds:
            raise NotAsToldError(f"not as told: {text}", wanted="what the step says", todo=otherwise)
        self.tell.good(text)

    def command(self, *arguments: str) -> str:
        """Show a command, run it, give its output."""
        self.tell.command(self.meshpki.shown(*arguments))
        return self.meshpki.check(*arguments)


def spiffe_id(account: ServiceAccountRef) -> str:
    """The SPIFFE ID that the account has in this story."""
    return str(SpiffeId.for_service_account(TRUST_DOMAIN, account))


@contextlib.contextmanager
def stage(tell: Narrator) -> Iterator[Stage]:
    """Set up a fresh directory; afterwards, however the story ended, stop and remove all that it made."""
    directory = Path(tempfile.mkdtemp(prefix="meshpki-demo-", dir=_base()))
    try:
        with ExitStack() as closing:
            yield _failing_loudly(Stage(tell, directory, closing), closing)
    finally:
        leftovers.end(directory)
        shutil.rmtree(directory, ignore_errors=True)


def _failing_loudly(set_up: Stage, closing: ExitStack) -> Stage:
    """Deprovision at the end whatever is still provisioned: pushed first, so it runs after the Envoys are stopped."""

    def deprovision() -> None:
        if set_up.provisioned:
            set_up.meshpki.run("deprovision", "--state-dir", STATE, "--yes")

    closing.callback(deprovision)
    return set_up


def _base() -> str | None:
    return "/tmp" if len(os.fsencode(tempfile.gettempdir())) > LONGEST_BASE else None  # noqa: S108 - mkdtemp is safe there


def log_tails(set_up: Stage) -> Iterator[tuple[str, str]]:
    """Give the name and the last lines of every log of the installation and of the Envoys, for a story that failed."""
    for path in sorted([*set_up.layout.logs.glob("*.log"), *set_up.directory.glob("*/envoy.log")]):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        yield str(path.relative_to(set_up.directory)), "\n".join(lines)
