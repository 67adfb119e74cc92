"""The ladder of a cluster, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster.ladder import Standing
from meshpki.provision.cluster.verdict import Answer, Rung
from meshpki_cli.page import BAD, GOOD, WARN, Cell, Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.provision.cluster.findings import Addition, Findings
    from meshpki_cli.page import Page

NAMES: Final = {
    Rung.VERSION: "version",
    Rung.TOKEN_REQUEST: "TokenRequest served",
    Rung.PERMISSIONS: "own permissions",
    Rung.TOKEN: "token for the mesh",
    Rung.REVIEW: "token confirmed",
    Rung.API_SERVER: "API server closed to it",
    Rung.ISSUER: "issuer and keys public",
    Rung.CERTIFICATES: "pod certificates",
    Rung.CANARY: "canary pod",
}
_STANDING: Final = {
    Standing.PROVEN: Cell("Proven: workloads can get identities against trustworthy tokens.", GOOD),
    Standing.FILE_MOUNT_ONLY: Cell("Only file-mounted keys are possible, which takes your word.", WARN),
    Standing.UNKNOWN: Cell("Could not tell whether sds is possible, which is not a no.", WARN),
    Standing.DANGER: Cell("Do not go on: a token of the mesh opens this cluster's API server.", BAD),
}
_WITHOUT_SDS: Final = {
    Standing.PROVEN: Cell("Proven: pods can get certificates by themselves. sds is not possible.", GOOD),
    Standing.UNKNOWN: Cell(
        "sds is not possible; could not tell whether pods can get certificates by themselves.", WARN
    ),
}
_STEP: Final = {Standing.DANGER: "to do first", Standing.UNKNOWN: "to find out"}


def show_findings(page: Page, found: Findings, server: str) -> None:
    """Write a line per rung, what a platform adds, then what they come to, and what would lift the cluster one rung."""
    page.line(server)
    page.blank()
    page.checks(list(_checks(found)))
    if found.addition is not None:
        _show_addition(page, found, found.addition)
    page.blank()
    page.line(_standing(found))
    page.blank()
    page.pairs(
        [
            ("modes", ", ".join(found.modes)),
            ("CA policies", ", ".join(found.policies)),
            *_steps(found),
        ]
    )


def _show_addition(page: Page, found: Findings, added: Addition) -> None:
    page.blank()
    page.title(f"What the platform {added.platform} adds ({added.origin})")
    said = added.detection
    page.pairs(
        [
            ("distribution", said.distribution),
            ("nodes", ", ".join(said.node_versions)),
            *((item.question, f"{item.answer} ({item.source})") for item in added.evidence),
            ("leaves out", ", ".join(found.left_out)),
        ],
        indent=2,
    )


def _standing(found: Findings) -> Cell:
    if found.addition is not None and found.standing is not found.ladder.standing:
        left = "only file-mounted keys are possible" if found.modes else "no mode is possible"
        return Cell(f"By the word of the platform {found.addition.platform} {left}.", WARN)
    words = _STANDING | _WITHOUT_SDS if found.sds is Answer.NO else _STANDING
    return words[found.standing]


def _checks(found: Findings) -> Iterator[Check]:
    """What is to do stands where it is met first; what lifts the cluster stands at the end."""
    said = {step.todo for step in found.lift}
    for verdict in found.ladder.verdicts:
        mark = verdict.answer.upper() if verdict.answer is Answer.DANGER else verdict.answer
        yield Check(mark, NAMES[verdict.rung], verdict.seen, "" if verdict.todo in said else verdict.todo)
        said.add(verdict.todo)


def _steps(found: Findings) -> Iterator[tuple[str, str]]:
    if not found.lift:
        yield "one rung up", "there is none above"
    for number, step in enumerate(found.lift):
        yield ("" if number else _label(found)), f"{step.mode}: {step.todo}"


def _label(found: Findings) -> str:
    if found.standing is Standing.PROVEN and found.ladder[Rung.CERTIFICATES].answer is Answer.UNKNOWN:
        return _STEP[Standing.UNKNOWN]
    return _STEP.get(found.standing, "one rung up")
