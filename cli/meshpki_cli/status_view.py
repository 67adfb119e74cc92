"""How an installation stands, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.hooks import Mode
from meshpki.provision.status import Installed
from meshpki_cli.durations import show_duration
from meshpki_cli.options import command_for
from meshpki_cli.page import BAD, GOOD, WARN, Cell, style_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.hooks import WorkloadStatus
    from meshpki.provision.status import InstallationStatus
    from meshpki_cli.options import command_for
from meshpki_cli.page import Page

_INSTALLED: Final = {Installed.ABSENT: WARN, Installed.UNFINISHED: BAD, Installed.COMPLETE: GOOD}


def show_status(page: Page, found: InstallationStatus, now: float) -> None:
    """Write one installation: itself, its components, its workloads."""
    last = found.last_run
    page.pairs(
        [
            ("installation", Cell(found.installed, _INSTALLED[found.installed])),
            ("state", found.state_dir),
            ("platform", found.platform),
            ("mode", _mode(found)),
            ("plan", found.digest),
            ("last run", f"{last.kind}, {last.outcome}{f': {last.reason}' if last.reason else ''}" if last else ""),
            ("problem", Cell(found.problem, BAD)),
        ]
    )
    if found.installed is Installed.ABSENT:
        page.blank()
        begin = command_for("provision --platform NAME", found.state_dir)
        page.line(f"To begin: {begin}, with one of those that `meshpki plugins` lists.")
    if found.components:
        page.blank()
        page.table(
            ("COMPONENT", "HEALTH", "DETAIL"),
            [(item.name, Cell(item.health, style_of(item.health)), item.detail) for item in found.components],
        )
    if found.workloads:
        page.blank()
        page.table(
            ("WORKLOAD", "HEALTH", "VALID FOR", "SPIFFE ID", "DETAIL"),
            [
                (
                    str(item.account),
                    Cell(item.health, style_of(item.health)),
                    show_duration(int(item.not_after - now)) if item.not_after else "",
                    item.spiffe_id,
                    item.detail,
                )
                for item in found.workloads
            ],
        )


def _mode(found: InstallationStatus) -> str | Cell:
    if found.choice is None:
        return ""
    text = f"{found.choice.mode}: {found.choice.reason}"
    return Cell(text, WARN) if found.choice.mode is Mode.FILE_MOUNT else text


def show_workload_paths(page: Page, workloads: Sequence[WorkloadStatus]) -> None:
    """Write where each workload finds its identity, and how Envoy takes it."""
    page.title("Identities")
    for item in workloads:
        page.line(Cell(str(item.account), ""), indent=2)
        page.pairs(
            [
                ("identity", item.spiffe_id),
                ("health", Cell(item.health, style_of(item.health))),
                ("SDS socket", item.sds_socket),
                ("files", item.directory),
                ("detail", item.detail),
            ],
            indent=4,
        )
    if any(item.sds_socket for item in workloads):
        page.line(
            "Envoy: name the socket as a gRPC cluster, and take the secrets `default` (certificate and key) and "
            "`ROOTCA` (roots) from it by SDS.",
            indent=2,
        )
