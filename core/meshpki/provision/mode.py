"""The choice of a rung on the ladder of trust (DESIGN section 2): by evidence or by the operator's word. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from meshpki.errors import OperatorNeededError
from meshpki.hooks import Mode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from meshpki.hooks import Detection

_RANK = {mode: rank for rank, mode in enumerate(Mode)}
"""0 is the highest rung."""


class ChosenBy(StrEnum):
    """Who settled the mode."""

    EVIDENCE = "evidence"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class ModeChoice:
    """The mode of a plan, who chose it, and why, in one sentence."""

    mode: Mode
    by: ChosenBy
    reason: str


def lower(one: Mode, other: Mode) -> bool:
    """Say whether `one` stands below `other` on the ladder."""
    return _RANK[one] > _RANK[other]


def choose(detection: Detection, *, word: Mode | None = None, installed: ModeChoice | None = None) -> ModeChoice:
    """Choose a mode. `word` is the operator's, `installed` the choice that the last finished run wrote down.

    The operator's word decides, as far as the evidence allows it, and holds for later runs until another word. Without
    one the best rung is taken, but never one below what is installed, and never file-mounted keys: those take the word,
    also where nothing else is left. Asking for the best rung, where that goes not down, is no more than the evidence
    says. Raises OperatorNeededError.
    """
    possible = detection.modes
    if not possible:
        raise _needed("no mode is possible on this platform", detection, "see the evidence for what is missing")
    best = possible[0]
    down = installed is not None and word is not None and lower(word, installed.mode)
    if word is not None and (word is not best or down or word is Mode.FILE_MOUNT):
        return _by_word(word, detection)
    if word is None and installed is not None and installed.by is ChosenBy.OPERATOR:
        return _by_word(installed.mode, detection)
    if installed is not None and lower(best, installed.mode):
        raise _needed(
            f"{installed.mode} is installed, and the evidence allows only {_list(possible)} now",
            detection,
            f"bring back what {installed.mode} needs, or say --fallback {best}: no run goes down by itself",
        )
    if best is Mode.FILE_MOUNT:
        raise _needed(
            "file-mounted keys are all that the evidence allows",
            detection,
            "bring about what sds needs, or say --fallback file-mount",
        )
    return ModeChoice(best, ChosenBy.EVIDENCE, f"the best of what the evidence allows ({_list(possible)})")


def _by_word(mode: Mode, detection: Detection) -> ModeChoice:
    allowed = _list(detection.modes)
    if mode not in detection.modes:
        ways = f"say --fallback {detection.modes[0]}, or bring about what {mode} needs"
        raise _needed(f"{mode} was asked for, the evidence allows {allowed}", detection, ways)
    return ModeChoice(mode, ChosenBy.OPERATOR, f"the operator's word; the evidence allows {allowed}")


def _needed(seen: str, detection: Detection, todo: str) -> OperatorNeededError:
    lines = tuple(f"{item.question} {item.answer} ({item.source})" for item in detection.evidence)
    return OperatorNeededError(seen, wanted="the operator's word", todo=todo, evidence=lines)


def _list(modes: Sequence[Mode]) -> str:
    return ", ".join(modes)
