"""A platform that is a directory, a state directory, and what one does with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from meshpki.provision import engine, facts, journal
from meshpki.provision import plan as plans
from meshpki.provision.base import Base
from meshpki.provision.saved import SavedPlan
from meshpki.testing.platform import MARK, NAME, DirectoryPlatform, plugin_set

if TYPE_CHECKING:
    from pathlib import Path

    from meshpki.hooks import Mode
    from meshpki.provision.engine import Report
    from meshpki.provision.journal import Outcome
    from meshpki.provision.plan import Plan

DEFAULT = ("a=first", "b=second")


class World:
    """Files of the directory are named as in `a=first`; without any, those of `DEFAULT`."""

    def __init__(self, tmp_path: Path) -> None:
        self.platform = DirectoryPlatform()
        self.plugins = plugin_set(self.platform)
        self.state_dir = tmp_path / "state"
        self.lines: list[str] = []

    def plan(self, *files: str, word: Mode | None = None) -> Plan:
        given: dict[str, Any] = {"file": files or DEFAULT}
        found = facts.detect(self.plugins, NAME, self.state_dir, given)
        return plans.make_plan(self.plugins, found, self.state_dir, word=word, history=journal.read(self.state_dir))

    def saved(self, *files: str, word: Mode | None = None) -> SavedPlan:
        return SavedPlan(self.plan(*files, word=word), Base.of(journal.read(self.state_dir)))

    def apply(self, plan: Plan | None = None) -> Report:
        plan = plan or self.plan()
        with journal.locked(self.state_dir) as opened:
            return engine.apply(self.plugins, plan, opened, base=Base.of(opened.history()), progress=self.lines.append)

    def remove(self) -> Report:
        return engine.deprovision(self.plugins, self.state_dir, progress=self.lines.append)

    def files(self) -> dict[str, str]:
        place = self.state_dir / "files"
        return {path.name: path.read_text().removeprefix(MARK) for path in sorted(place.glob("*"))}

    def made(self) -> list[str]:
        return [item.id for item in journal.read(self.state_dir).made]

    def outcome(self) -> tuple[Outcome, str]:
        last = journal.read(self.state_dir).runs[-1]
        return last.outcome, last.reason
