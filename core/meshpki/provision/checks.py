"""Checks of a verification and what they come to: one line each, with what was seen."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshpki.errors import MeshpkiError


class Verdict(StrEnum):
    """How a check came out."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"
    """It cannot be made here; the detail says why."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check: what was tried, how it came out, what was seen."""

    name: str
    verdict: Verdict
    detail: str
    evidence: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """False for a failed or skipped one."""
        return self.verdict is Verdict.PASSED


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """Every check, in the order in which it was made."""

    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """True when nothing failed and something passed."""
        return not self.failed and any(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.checks if check.verdict is Verdict.FAILED)


def settled(name: str, well: bool, detail: str, evidence: tuple[str, ...] = ()) -> Check:
    """A check that passed or failed."""
    return Check(name, Verdict.PASSED if well else Verdict.FAILED, detail, evidence)


def failed(name: str, error: MeshpkiError) -> Check:
    """A check that failed by an error."""
    return Check(name, Verdict.FAILED, str(error), error.evidence)


def skipped(name: str, why: str) -> Check:
    """A check that cannot be made here."""
    return Check(name, Verdict.SKIPPED, why)
