"""Makes a plan real, change by change, and takes everything back. Knows no platform.

For each change: look, write down the intent with its undo record, apply, wait for the gate, write down that it is done.
A run that is broken off anywhere is gone on with by running the same command again.
"""

from __future__ import annotations

import contextlib
import logging
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from meshpki import plugins as plugin_sets
from meshpki import records
from meshpki.errors import InvalidValueError, MeshpkiError, OperatorNeededError, PluginError
from meshpki.hooks import EffectState
from meshpki.provision import base as bases
from meshpki.provision import codec, journal_file
from meshpki.provision.commands import command
from meshpki.provision.facts import absolute
from meshpki.provision.journal import Outcome, RunKind, Undo, locked, no_checkpoint
from meshpki.provision.standing import Standing, refuse_blocked, refuse_lowering, refuse_unknown, refuse_unseen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from meshpki.hooks import Change, Effect, Observation, Params, Progress
    from meshpki.plugins import PluginSet
    from meshpki.provision.base import Base
    from meshpki.provision.journal import Journal, Made
    from meshpki.provision.plan import Plan

    Checkpoint = Callable[[str], None]

_LOG: Final = logging.getLogger(__name__)


class InterruptedRunError(OperatorNeededError):
    """Ctrl-C: the run was broken off, the journal knows where."""


class Deed(StrEnum):
    """What a run did about one change."""

    MADE = "made"
    UPDATED = "updated"
    """It stood there by an earlier plan and was brought up to date."""
    PROVEN = "proven"
    """A run that was broken off had made it; this one saw that it is whole and healthy."""
    KEPT = "kept"
    """It stood there already, by our doing."""
    FOUND = "found"
    """It stood there already, and no journal says that we made it: deprovision will leave it."""
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Result:
    """One change and what was done about it."""

    id: str
    title: str
    deed: Deed


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did, in order. `left` names what the state directory holds that is not ours."""

    results: tuple[Result, ...]
    left: tuple[str, ...] = ()

    @property
    def changed(self) -> bool:
        """False when everything stood there already."""
        return any(result.deed not in {Deed.KEPT, Deed.FOUND} for result in self.results)


def survey(plugins: PluginSet, plan: Plan) -> tuple[Standing, ...]:
    """Look at every change of a plan; changes nothing."""
    observer = _Hands(plugins, plan.platform, Path(plan.state_dir))
    return tuple(Standing(change, observer.observe(change)) for change in plan.changes)


def apply(
    plugins: PluginSet,
    plan: Plan,
    journal: Journal,
    *,
    base: Base,
    agreed: tuple[Standing, ...] = (),
    progress: Progress,
    checkpoint: Checkpoint = no_checkpoint,
) -> Report:
    """Bring the world where the plan wants it. Idempotent, and resumable wherever it is broken off.

    `base` is what stood when the plan was shown, `agreed` how each change stood then, where a person was asked. Raises
    OperatorNeededError, with nothing changed, when either is not so any more, when something foreign stands in the
    way, or when the journal holds what the plan does not know; InterruptedRunError on Ctrl-C; else the error of the
    change that failed, which was taken back (or the evidence says what remains).
    """
    history = journal.history()
    bases.refuse_moved(base, history)
    standings = survey(plugins, plan)
    refuse_blocked(standings)
    refuse_unseen(agreed, standings)
    refuse_unknown(plan, history)
    refuse_lowering(plan, history)
    return _Run(plugins, plan, journal, progress, checkpoint).provision()


def remove(
    plugins: PluginSet,
    journal: Journal,
    *,
    base: Base | None = None,
    progress: Progress,
    checkpoint: Checkpoint = no_checkpoint,
) -> Report:
    """Take back everything that the journal holds, last made first, then the journal itself. Resumable.

    `base` is what stood when the operator agreed; None for who agreed to whatever stands. Raises OperatorNeededError,
    with nothing changed, when something else stands by now; InterruptedRunError on Ctrl-C, else the error of the
    change that could not be taken back.
    """
    history = journal.history()
    if base is not None:
        bases.refuse_moved(base, history, "the list was shown")
    plan = history.plan
    if plan is None:
        return Report((), journal.erase(checkpoint=checkpoint))
    results = _Run(plugins, plan, journal, progress, checkpoint).deprovision()
    return Report(results, journal.erase(checkpoint=checkpoint))


def deprovision(
    plugins: PluginSet,
    state_dir: Path,
    *,
    base: Base | None = None,
    progress: Progress,
    checkpoint: Checkpoint = no_checkpoint,
) -> Report:
    """Take the lock and remove everything that runs in `state_dir` made; nothing there is no error.

    `base` as for `remove`. Raises what `journal.locked` and `remove` raise.
    """
    state_dir = absolute(state_dir)
    journal_file.sweep(state_dir)
    if not journal_file.exists(state_dir / journal_file.FILE):
        return Report((), journal_file.others(state_dir))
    with locked(state_dir, checkpoint=checkpoint) as journal:
        return remove(plugins, journal, base=base, progress=progress, checkpoint=checkpoint)


class _Hands:
    """Builds effects and calls them, each call isolated from the rest of us."""

    def __init__(self, plugins: PluginSet, platform: str, state_dir: Path) -> None:
        self._plugins = plugins
        self._platform = platform
        self._plugin = plugins.plugin(platform)
        self._state_dir = state_dir

    def effect(self, kind: str, params: Params) -> Effect:
        return self._plugins.effect(self._platform, kind, self._state_dir, params)

    def observe(self, change: Change | Made) -> Observation:
        effect = self.effect(change.kind, change.params)
        return plugin_sets.isolated(self._plugin, f"observe of {change.id}", effect.observe)

    def undo_record(self, change: Change) -> Params:
        effect = self.effect(change.kind, change.params)
        record = plugin_sets.isolated(self._plugin, f"undo_record of {change.id}", effect.undo_record)
        try:
            return records.check_record(record, change.id)
        except InvalidValueError as error:
            raise PluginError(f"plugin {self._plugin.name!r} of {self._plugin.origin}: {error}") from error

    def apply(self, change: Change, progress: Progress) -> None:
        effect = self.effect(change.kind, change.params)
        plugin_sets.isolated(self._plugin, f"apply of {change.id}", lambda: effect.apply(progress))

    def gate(self, change: Change, progress: Progress) -> None:
        effect = self.effect(change.kind, change.params)
        plugin_sets.isolated(self._plugin, f"gate of {change.id}", lambda: effect.gate(progress))

    def undo(self, change_id: str, undo: Undo, progress: Progress) -> None:
        effect = self.effect(undo.kind, undo.params)
        plugin_sets.isolated(self._plugin, f"undo of {change_id}", lambda: effect.undo(undo.record, progress))


class _Run:
    """One run, from its first line in the journal to its last."""

    def __init__(
        self, plugins: PluginSet, plan: Plan, journal: Journal, progress: Progress, checkpoint: Checkpoint
    ) -> None:
        self._plan = plan
        self._journal = journal
        self._progress = progress
        self._checkpoint = checkpoint
        self._hands = _Hands(plugins, plan.platform, Path(plan.state_dir))
        self._at = ""
        self._id = 0

    def provision(self) -> Report:
        made = {item.id: item for item in self._journal.made()}
        removals = [made[removal.id] for removal in self._plan.removals if removal.id in made]
        total = len(self._plan.changes) + len(removals)
        results: list[Result] = []
        with self._recorded(RunKind.PROVISION):
            for number, change in enumerate(self._plan.changes, start=1):
                self._say(number, total, change.title)
                results.append(Result(change.id, change.title, self._make(change, made.get(change.id))))
            for number, item in enumerate(removals, start=len(self._plan.changes) + 1):
                self._say(number, total, f"remove: {item.title}")
                results.append(self._unmake(item))
        return Report(tuple(results))

    def deprovision(self) -> tuple[Result, ...]:
        made = self._journal.made()
        results: list[Result] = []
        with self._recorded(RunKind.DEPROVISION):
            for number, item in enumerate(reversed(made), start=1):
                self._say(number, len(made), f"remove: {item.title}")
                results.append(self._unmake(item))
        return tuple(results)

    def _say(self, number: int, total: int, what: str) -> None:
        self._at = f"step {number} of {total}: {what}"
        self._progress(self._at)

    def _make(self, change: Change, made: Made | None) -> Deed:
        observation = self._hands.observe(change)
        refuse_blocked((Standing(change, observation),))
        opened = self._journal.open_step(change.id)
        match observation.state:
            case EffectState.DONE if opened is None:
                if made is not None and (made.kind, made.title, made.params) != (
                    change.kind,
                    change.title,
                    change.params,
                ):
                    self._journal.update(change)
                return Deed.FOUND if made is None else Deed.KEPT
            case EffectState.DONE:
                assert opened is not None
                step = self._journal.intend(self._id, change, opened.record)
                self._checkpoint(f"{change.id}.resumed")
                self._prove(change, step, opened.record)
                return Deed.PROVEN
            case _:
                record = opened.record if opened else self._hands.undo_record(change)
                self._checkpoint(f"{change.id}.recorded")
                step = self._journal.intend(self._id, change, record)
                self._checkpoint(f"{change.id}.intended")
                with self._taken_back_on_error(change, step, record):
                    self._hands.apply(change, self._progress)
                self._checkpoint(f"{change.id}.applied")
                self._prove(change, step, record)
                return Deed.MADE if made is None or not made.proven else Deed.UPDATED

    def _prove(self, change: Change, step: int, record: Params) -> None:
        with self._taken_back_on_error(change, step, record):
            self._hands.gate(change, self._progress)
        self._checkpoint(f"{change.id}.proven")
        self._journal.applied(step)
        self._checkpoint(f"{change.id}.done")

    @contextlib.contextmanager
    def _taken_back_on_error(self, change: Change, step: int, record: Params) -> Iterator[None]:
        try:
            yield
        except MeshpkiError as error:
            self._take_back(change, step, record, error)
            raise

    def _take_back(self, change: Change, step: int, record: Params, error: MeshpkiError) -> None:
        """Undo a change that failed; add to the error what became of it."""
        self._progress(f"{change.title}: failed, taking it back")
        try:
            self._hands.undo(change.id, Undo(change.kind, change.params, record), self._progress)
        except MeshpkiError as second:
            error.evidence += (f"{change.title}: could not be taken back: {second}", self._kept())
            return
        self._checkpoint(f"{change.id}.undone")
        error.evidence += (f"{change.title}: taken back",)
        try:
            self._journal.taken_back(step, error.seen)
        except MeshpkiError as second:  # as on a full disk: the next run looks, and sees that nothing of it is there
            error.evidence += (f"that could not be written down: {second}", self._kept())
            return
        self._checkpoint(f"{change.id}.failed")
        if standing := [item.title for item in self._journal.made()]:
            error.evidence += (f"still there: {codec.names(standing)}", self._kept())

    def _unmake(self, made: Made) -> Result:
        step = self._journal.intend_removal(self._id, made)
        self._checkpoint(f"{made.id}.removal-intended")
        for undo in made.undo:
            self._hands.undo(made.id, undo, self._progress)
        if self._hands.observe(made).state is EffectState.DONE:
            raise PluginError(f"{made.title}: still there after it was taken back", todo="report it to its authors")
        self._checkpoint(f"{made.id}.removal-applied")
        self._journal.removed(step, made)
        self._checkpoint(f"{made.id}.removed")
        return Result(made.id, made.title, Deed.REMOVED)

    @contextlib.contextmanager
    def _recorded(self, kind: RunKind) -> Iterator[None]:
        """Keep the run's own line in the journal, and turn Ctrl-C into an error that says how to go on."""
        self._id = self._journal.begin_run(kind, self._plan)
        self._checkpoint("run.begun")
        _LOG.info("run begins", extra={"run": self._id, "kind": kind.value, "plan": self._plan.digest})
        try:
            yield
        except KeyboardInterrupt as error:
            self._journal.end_run(self._id, Outcome.INTERRUPTED, self._at)
            raise InterruptedRunError(
                f"interrupted at {self._at or 'the beginning'}",
                wanted="a whole run",
                todo=self._how_on(kind),
            ) from error
        except MeshpkiError as error:
            with contextlib.suppress(MeshpkiError):  # a full disk fails both the change and this line
                self._journal.end_run(self._id, Outcome.FAILED, f"{self._at}: {error.seen}")
            _LOG.warning("run failed", extra={"run": self._id, "at": self._at})
            raise
        self._journal.end_run(self._id, Outcome.DONE)
        self._checkpoint("run.ended")
        _LOG.info("run ended", extra={"run": self._id})

    def _kept(self) -> str:
        back = command("deprovision", self._plan.state_dir)
        return f"the journal knows it: the same command goes on, {back} takes it back"

    def _how_on(self, kind: RunKind) -> str:
        back = command("deprovision", self._plan.state_dir)
        if kind is RunKind.PROVISION:
            return f"run the same command again to go on, or {back} to take back what was made"
        return f"run {back} again to go on"
