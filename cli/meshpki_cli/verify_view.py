"""The checks of a verification, as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from meshpki_cli.page import BAD, GOOD, Cell, Check

if TYPE_CHECKING:
    from meshpki.provision.verify import VerifyReport
    from meshpki_cli.page import Page

SHORT: Final = 40
"""Characters that may well be read twice."""


def show_checks(page: Page, report: VerifyReport) -> None:
    """Write one line per check, and the sum; what was seen in a passed check only where there is room for it.

    What made several fail, as an outage does, is written once.
    """
    lines: list[Check] = []
    for check in report.checks:
        mark = "FAILED" if check in report.failed else check.verdict
        text = check.detail if check.passed else "; ".join((check.detail, *check.evidence))
        again = len(text) > SHORT and not check.passed and any((line.mark, line.text) == (mark, text) for line in lines)
        lines.append(Check(mark, check.name, "as above" if again else text, optional=check.passed))
    page.checks(lines)
    page.blank()
    passed = sum(check.passed for check in report.checks)
    text = f"{passed} of {len(report.checks)} checks passed, {len(report.failed)} failed."
    page.line(Cell(text, GOOD if report.passed else BAD))
