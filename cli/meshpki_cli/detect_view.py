"""The ladder of a cluster, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki.provision.cluster.ladder import Standing
from meshpki.provision.cluster.verdict import Answer, Rung
from meshpki_cli.page import BAD, GOOD, WARN, Cell, Check

if TYPE_CHECKING:
    from collections.abc import Iterator

    from meshpki.provision.cluster.ladder import Ladder
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


def show_ladder(page: Page, ladder: Ladder, server: str) -> None:
    """Write a line per rung, then what they come to, and what would lift the cluster one rung."""
    page.line(server)
    page.blank()
    page.checks(list(_checks(ladder)))
    page.blank()
    page.line(_standing(ladder))
    page.blank()
    page.pairs(
        [
            ("modes", ", ".join(ladder.modes)),
            ("CA policies", ", ".join(ladder.policies)),
            *_steps(ladder),
        ]
    )


def _standing(ladder: Ladder) -> Cell:
    words = _STANDING | _WITHOUT_SDS if ladder.sds is Answer.NO else _STANDING
    return words[ladder.standing]


def _checks(ladder: Ladder) -> Iterator[Check]:
    """What is to do stands where it is met first; what lifts the cluster stands at the end."""
    said = {step.todo for step in ladder.lift}
    for verdict in ladder.verdicts:
        mark = verdict.answer.upper() if verdict.answer is Answer.DANGER else verdict.answer
        yield Check(mark, NAMES[verdict.rung], verdict.seen, "" if verdict.todo in said else verdict.todo)
        said.add(verdict.todo)


def _steps(ladder: Ladder) -> Iterator[tuple[str, str]]:
    if not ladder.lift:
        yield "one rung up", "there is none above"
    for number, step in enumerate(ladder.lift):
        yield ("" if number else _label(ladder)), f"{step.mode}: {step.todo}"


def _label(ladder: Ladder) -> str:
    if ladder.standing is Standing.PROVEN and ladder[Rung.CERTIFICATES].answer is Answer.UNKNOWN:
        return _STEP[Standing.UNKNOWN]
    return _STEP.get(ladder.standing, "one rung up")
