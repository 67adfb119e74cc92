"""The journal: what was begun, what was made and how to take it back. SQLite, durable before any effect.

An intent is written, with its undo record, before the effect; what was made is written after it has proven healthy.
A process killed between any two instructions leaves a journal that says what the next run has to look at.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from meshpki.errors import MeshpkiError
from meshpki.provision import codec, journal_file
from meshpki.provision import plan as plans
from meshpki.provision.facts import absolute
from meshpki.provision.journal_file import FILE
from meshpki.runtime import files

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from meshpki.hooks import Change, Params
    from meshpki.provision.mode import ModeChoice
    from meshpki.provision.plan import Plan

    Execute: TypeAlias = Callable[..., sqlite3.Cursor]

MAX_REASON: Final = 500

_ALL_RUNS: Final = "SELECT id, kind, digest, outcome, reason, started, ended FROM runs ORDER BY id"
_LAST_PLAN: Final = "SELECT plan FROM runs WHERE kind='provision' ORDER BY id DESC LIMIT 1"
_LAST_FINISHED_PLAN: Final = "SELECT plan FROM runs WHERE kind='provision' AND outcome='done' ORDER BY id DESC LIMIT 1"
_ALL_APPLIED: Final = "SELECT change, kind, title, params, record FROM applied ORDER BY position"
_ALL_OPEN: Final = (
    "SELECT change, kind, title, params, record FROM steps WHERE action='apply' AND state='intent' ORDER BY id"
)
_OPEN_STEP: Final = "SELECT id, record FROM steps WHERE change=? AND state='intent' ORDER BY action LIMIT 1"
_NEW_STEP: Final = (
    "INSERT INTO steps (run, action, change, kind, title, params, record, state, reason, started, ended)"
    " VALUES (?,?,?,?,?,?,?,'intent','',?,0)"
)
_RESUME: Final = "UPDATE steps SET state='resumed', ended=? WHERE change=? AND action=? AND state='intent'"
_CLOSE: Final = "UPDATE steps SET state=?, reason=?, ended=? WHERE id=?"
_NOW_APPLIED: Final = (
    "INSERT INTO applied (change, position, kind, title, params, record)"
    " SELECT change, (SELECT coalesce(max(position), 0) + 1 FROM applied), kind, title, params, record"
    " FROM steps WHERE id=? ON CONFLICT (change) DO UPDATE"
    " SET kind=excluded.kind, title=excluded.title, params=excluded.params"
)


class RunKind(StrEnum):
    """What a run is for."""

    PROVISION = "provision"
    DEPROVISION = "deprovision"


class Outcome(StrEnum):
    """How a run stands. One that was killed stays at `running` until the next one begins."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    KILLED = "killed"
    """It stands as running, and no process is at it. Never written: whoever only reads sees it so."""
    ABANDONED = "abandoned"
    """It was killed, or failed, and another one was begun after it."""


class StepState(StrEnum):
    """How a step stands."""

    INTENT = "intent"
    """Its effect may have begun, may be whole, or may not have begun."""
    DONE = "done"
    FAILED = "failed"
    """Its effect failed and was taken back."""
    RESUMED = "resumed"
    """A later step took it over: to go on with it, or to take it back."""


@dataclass(frozen=True, slots=True)
class Undo:
    """One way back: the kind and parameters of a change as it was applied, and its undo record."""

    kind: str
    params: Params
    record: Params


@dataclass(frozen=True, slots=True)
class Made:
    """A change that stands in the world by our doing, or may do so."""

    id: str
    kind: str
    title: str
    params: Params
    undo: tuple[Undo, ...]
    """The ways back, in this order: that of an update which was cut short, then that of the first time."""
    proven: bool
    """False while its first intent is open: the process ended before it was known to be whole and healthy."""


@dataclass(frozen=True, slots=True)
class Step:
    """An open intent to apply or to undo a change, with the undo record of the world before it was applied."""

    id: int
    record: Params


@dataclass(frozen=True, slots=True)
class Run:
    """One run, as the journal tells it. Times are epoch seconds, 0 for not yet."""

    id: int
    kind: RunKind
    digest: str
    outcome: Outcome
    reason: str
    started: int
    ended: int


@dataclass(frozen=True, slots=True)
class History:
    """What a journal says at one moment, oldest first. Empty where there is no journal."""

    runs: tuple[Run, ...] = ()
    made: tuple[Made, ...] = ()
    plan: Plan | None = None
    """The plan of the last provisioning run."""
    installed: ModeChoice | None = None
    """The mode of the last provisioning run that finished, as long as anything of it is there."""

    @property
    def unfinished(self) -> Plan | None:
        """The plan of the last run, if that was to provision and has not come to its end."""
        if self.plan is None or not self.runs:
            return None
        last = self.runs[-1]
        return self.plan if last.kind is RunKind.PROVISION and last.outcome is not Outcome.DONE else None


def no_checkpoint(name: str) -> None:
    """Pass: in a normal run a checkpoint does nothing."""


def read(state_dir: Path) -> History:
    """Tell what the journal in `state_dir` says, without a lock; empty when there is none.

    Raises MachineError for a directory or file that is not ours, IntegrityError for a damaged journal.
    """
    state_dir = absolute(state_dir)
    if not journal_file.exists(state_dir / FILE):
        return History()
    files.check_private_directory(state_dir)
    with contextlib.closing(journal_file.connect(state_dir / FILE)) as connection:
        journal = Journal(state_dir, connection)
        history = journal.history()
        if not history.runs or history.runs[-1].outcome is not Outcome.RUNNING:
            return history
        with journal_file.at_rest(state_dir) as rests:
            return _killed(journal.history()) if rests else history


def _killed(history: History) -> History:
    """The history at rest: what stands as running is not."""
    *earlier, last = history.runs
    if last.outcome is not Outcome.RUNNING:
        return history
    return replace(history, runs=(*earlier, replace(last, outcome=Outcome.KILLED)))


@contextlib.contextmanager
def locked(state_dir: Path, *, checkpoint: Callable[[str], None] = no_checkpoint) -> Iterator[Journal]:
    """Open the journal in `state_dir`, made if need be together with the directory, and keep others out meanwhile.

    A refusal before anything was begun leaves no journal where there was none. Raises OperatorNeededError, with the
    other's process id, when another run has it; MachineError for a directory or file that is not ours; IntegrityError
    for a damaged journal.
    """
    state_dir = absolute(state_dir)
    journal_file.sweep(state_dir)
    made, new = not journal_file.exists(state_dir), not journal_file.exists(state_dir / FILE)
    directory = journal_file.make_aside(state_dir) if made else state_dir
    files.private_directory(directory)
    with journal_file.lock(directory, state_dir):
        checkpoint("journal.directory")
        journal_file.initialise(directory / FILE, made_directory=made)
        checkpoint("journal.tables")
        if made:
            journal_file.rename_into_place(directory, state_dir)
            checkpoint("journal.in-place")
        with contextlib.closing(journal_file.connect(state_dir / FILE)) as connection:
            journal = Journal(state_dir, connection)
            journal.note_holder()
            try:
                yield journal
            except MeshpkiError:
                with contextlib.suppress(MeshpkiError):  # the refusal is what counts
                    if new and not journal.history().runs:
                        journal.erase()
                raise


class Journal:
    """An open journal. Every method is one transaction, durable when it returns. For one thread."""

    def __init__(self, state_dir: Path, connection: sqlite3.Connection) -> None:
        self.state_dir = state_dir
        self.path = state_dir / FILE
        self._connection = connection

    def note_holder(self) -> None:
        """Write down who has the lock, for the message that the next one gets."""
        with self._transaction() as execute:
            execute("UPDATE installation SET holder = ?", (os.getpid(),))

    def history(self) -> History:
        """Tell what is written. Raises IntegrityError when it is not what meshpki writes."""
        with self._transaction(write=False) as execute:
            runs = tuple(map(_read_run, execute(_ALL_RUNS)))
            made = _read_all_made(execute)
            saved = execute(_LAST_PLAN).fetchone()
            finished = execute(_LAST_FINISHED_PLAN).fetchone()
            return History(
                runs=runs,
                made=made,
                plan=_read_plan(saved) if saved else None,
                installed=_read_plan(finished).choice if finished else None,
            )

    def made(self) -> tuple[Made, ...]:
        """Everything that stands in the world by our doing or may do so, in the order in which it was made."""
        with self._transaction(write=False) as execute:
            return _read_all_made(execute)

    def open_step(self, change_id: str) -> Step | None:
        """Return the intent that no run has brought to an end, if there is one: to apply it, or else to undo it."""
        with self._transaction(write=False) as execute:
            row = execute(_OPEN_STEP, (change_id,)).fetchone()
            return None if row is None else Step(row[0], _read_params(row[1]))

    def begin_run(self, kind: RunKind, plan: Plan) -> int:
        """Write down that a run begins; whatever ran before it and was not brought to an end is abandoned."""
        now = _now()
        with self._transaction() as execute:
            execute("UPDATE runs SET outcome = 'abandoned', ended = ? WHERE outcome = 'running'", (now,))
            cursor = execute(
                "INSERT INTO runs (kind, digest, plan, outcome, reason, started, ended) VALUES (?,?,?,?,'',?,0)",
                (kind, plan.digest, codec.canonical(plans.to_json(plan)).decode(), Outcome.RUNNING, now),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def end_run(self, run: int, outcome: Outcome, reason: str = "") -> None:
        """Write down how a run ended."""
        with self._transaction() as execute:
            execute(
                "UPDATE runs SET outcome=?, reason=?, ended=? WHERE id=?", (outcome, reason[:MAX_REASON], _now(), run)
            )

    def intend(self, run: int, change: Change, record: Params) -> int:
        """Write down that `change` is about to be applied, and how to take it back. Takes over open intents."""
        with self._transaction() as execute:
            execute(_RESUME, (_now(), change.id, "apply"))
            execute(_RESUME, (_now(), change.id, "undo"))
            return _insert_step(execute, run, "apply", change, record)

    def applied(self, step: int) -> None:
        """Write down that a step's change is made and has proven healthy. The first undo record stays."""
        with self._transaction() as execute:
            execute(_CLOSE, (StepState.DONE, "", _now(), step))
            execute(_NOW_APPLIED, (step,))

    def taken_back(self, step: int, reason: str) -> None:
        """Write down that a step failed and that its effect was taken back."""
        with self._transaction() as execute:
            execute(_CLOSE, (StepState.FAILED, reason[:MAX_REASON], _now(), step))

    def intend_removal(self, run: int, made: Made) -> int:
        """Write down that a change is about to be undone. Takes over an open intent to do so."""
        with self._transaction() as execute:
            execute(_RESUME, (_now(), made.id, "undo"))
            return _insert_step(execute, run, "undo", made, made.undo[-1].record)

    def removed(self, step: int, made: Made) -> None:
        """Write down that a change is undone: nothing of it is left."""
        with self._transaction() as execute:
            execute(_CLOSE, (StepState.DONE, "", _now(), step))
            execute(_RESUME, (_now(), made.id, "apply"))
            execute("DELETE FROM applied WHERE change=?", (made.id,))

    def update(self, change: Change) -> None:
        """Write down new words or parameters of a change that is made and needs nothing done."""
        with self._transaction() as execute:
            execute(
                "UPDATE applied SET kind=?, title=?, params=? WHERE change=?",
                (change.kind, change.title, _write(change.params), change.id),
            )

    def erase(self, *, checkpoint: Callable[[str], None] = no_checkpoint) -> tuple[str, ...]:
        """Remove the journal, and the state directory if it was made by us and holds nothing else.

        Returns the names of what else it holds. Nothing may be made any more; the journal cannot be used afterwards.
        """
        with self._transaction(write=False) as execute:
            assert not _read_all_made(execute)
            (made_directory,) = execute("SELECT made_directory FROM installation").fetchone()
        with journal_file.errors(self.path):
            self._connection.close()
        checkpoint("journal.closed")
        others = journal_file.others(self.state_dir)
        journal_file.remove(self.state_dir, whole=bool(made_directory) and not others, checkpoint=checkpoint)
        return others

    @contextlib.contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[Execute]:
        with journal_file.errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield self._connection.execute
                self._connection.execute("COMMIT")
            except BaseException as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                if isinstance(error, ValueError):
                    raise journal_file.damaged(self.path, str(error)) from error
                raise


def _insert_step(execute: Execute, run: int, action: str, change: Change | Made, record: Params) -> int:
    cursor = execute(
        _NEW_STEP,
        (run, action, change.id, change.kind, change.title, _write(change.params), _write(record), _now()),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def _read_run(row: tuple[int, str, str, str, str, int, int]) -> Run:
    return Run(row[0], RunKind(row[1]), row[2], Outcome(row[3]), row[4], row[5], row[6])


def _read_all_made(execute: Execute) -> tuple[Made, ...]:
    opened = {row[0]: row for row in execute(_ALL_OPEN)}
    applied = {row[0]: row for row in execute(_ALL_APPLIED)}
    return tuple(
        _read_made([rows[change] for rows in (opened, applied) if change in rows], proven=change in applied)
        for change in [*applied, *(change for change in opened if change not in applied)]
    )


def _read_made(rows: list[tuple[str, str, str, str, str]], *, proven: bool) -> Made:
    change, kind, title, params, _ = rows[-1]
    undo = tuple(Undo(row[1], _read_params(row[3]), _read_params(row[4])) for row in rows)
    return Made(change, kind, title, _read_params(params), undo, proven)


def _read_plan(row: tuple[str]) -> Plan:
    return plans.from_json(codec.decode(row[0]))


def _read_params(text: str) -> Params:
    return codec.read_params(codec.decode(text), "the parameters")


def _write(params: Params) -> str:
    return codec.canonical(codec.params_to_json(params)).decode()


def _now() -> int:
    return int(time.time())
