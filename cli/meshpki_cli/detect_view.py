"""The ladder of a cluster, as people read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki_cli.page import BAD, GOOD, WARN, Cell, Check

if TYPE_CHECKING:
    from meshpki.provision.cluster.ladder import Ladder
    from meshpki.provision.cluster.verdict import Verdict
    from meshpki_cli.page import Page

NAMES: Final = {
    "version": "version",
    "token-request": "TokenRequest served",
    "permissions": "own permissions",
    "token": "token for the mesh",
    "review": "token confirmed",
    "api-server": "API server closed to it",
    "issuer": "issuer and keys public",
    "certificates": "pod certificates",
    "canary": "canary pod",
}


def show_ladder(page: Page, ladder: Ladder, server: str) -> None:
    """Write a line per rung, then the modes, what they leave open, and what would lift the cluster one rung."""
    page.line(Cell(server))
    page.blank()
    page.checks([_check(verdict) for verdict in ladder.verdicts])
    page.blank()
    _show_sum(page, ladder)


def _check(verdict: Verdict) -> Check:
    mark = "DANGER" if verdict.answer == "danger" else str(verdict.answer)
    return Check(mark, NAMES[verdict.rung], verdict.seen, verdict.todo)


def _show_sum(page: Page, ladder: Ladder) -> None:
    standing = _STANDING[ladder.standing]
    page.line(standing)
    page.blank()
    page.pairs(
        [
            ("modes", ", ".join(ladder.modes)),
            ("for the CA", _policies(ladder)),
            ("one rung up", "; ".join(ladder.lift) or "this is the highest"),
        ]
    )


def _policies(ladder: Ladder) -> str:
    return f"authentication: {' or '.join(ladder.policies)}" if ladder.policies else ""


_STANDING: Final = {
    "proven": Cell("Workloads can be given identities against trustworthy tokens.", GOOD),
    "file-mount-only": Cell(
        "Only file-mounted keys are possible, and they take your word: --fallback file-mount", WARN
    ),
    "could-not-tell": Cell(
        "Could not tell whether sds is possible. That is no no: answer what is open, and ask again.", WARN
    ),
    "danger": Cell("Do not go on: a token of the mesh opens this cluster's API server.", BAD),
}
