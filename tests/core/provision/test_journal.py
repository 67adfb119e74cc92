"""The journal: who may have it, what it refuses, what it keeps."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from meshpki.errors import IntegrityError, MachineError, OperatorNeededError
from meshpki.hooks import Change
from meshpki.provision import engine, facts, journal, journal_file
from meshpki.provision import plan as plans
from meshpki.provision.journal import Outcome, RunKind
from meshpki.provision.plan import Plan
from meshpki.testing.platform import NAME, plugin_set

CHANGE = Change("file.a", "directory.file", "file a", "why", {"path": "a", "names": ("x", "y"), "port": 1, "on": True})


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    return tmp_path / "state"


def a_plan(state_dir: Path) -> Plan:
    plugins = plugin_set()
    return plans.make_plan(plugins, facts.detect(plugins, NAME, state_dir, {}), state_dir)


def test_the_directory_is_made_private_with_the_journal_in_it(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        assert stat.S_IMODE(state_dir.stat().st_mode) == 0o700
        for path in state_dir.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert opened.path == state_dir / "journal.db"
    assert [path.name for path in state_dir.parent.iterdir()] == ["state"]


def test_it_is_in_wal_mode_and_syncs_in_full(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        pragma = opened._connection.execute
        assert pragma("PRAGMA journal_mode").fetchone() == ("wal",)
        assert pragma("PRAGMA synchronous").fetchone() == (2,)


def test_reading_where_there_is_none_makes_none(state_dir: Path) -> None:
    assert journal.read(state_dir) == journal.History()
    assert not state_dir.exists()
    state_dir.mkdir(mode=0o755)
    assert journal.read(state_dir) == journal.History()
    assert not list(state_dir.iterdir())


def test_an_intent_is_kept_with_its_record_until_it_is_done(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        run = opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        step = opened.intend(run, CHANGE, {"before": "x", "list": ("a",)})
    with journal.locked(state_dir) as opened:
        (made,) = opened.made()
        assert (made.id, made.proven, made.params) == ("file.a", False, CHANGE.params)
        assert [undo.record for undo in made.undo] == [{"before": "x", "list": ("a",)}]
        again = opened.open_step("file.a")
        assert again is not None
        assert (again.id, again.record) == (step, {"before": "x", "list": ("a",)})
        opened.applied(step)
        assert opened.open_step("file.a") is None
        assert [item.proven for item in opened.made()] == [True]


def test_the_first_record_stays_and_an_open_update_is_undone_before_it(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        run = opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        opened.applied(opened.intend(run, CHANGE, {"n": 1}))
        opened.applied(opened.intend(run, CHANGE, {"n": 2}))
        assert [undo.record for undo in opened.made()[0].undo] == [{"n": 1}]
        opened.intend(run, CHANGE, {"n": 3})
        assert [undo.record for undo in opened.made()[0].undo] == [{"n": 3}, {"n": 1}]


def test_what_failed_and_was_taken_back_is_not_there(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        run = opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        opened.taken_back(opened.intend(run, CHANGE, {}), "it broke")
        assert opened.made() == ()
        assert opened.open_step("file.a") is None


def test_runs_are_told_by_their_outcome(state_dir: Path) -> None:
    plan = a_plan(state_dir)
    with journal.locked(state_dir) as opened:
        opened.begin_run(RunKind.PROVISION, plan)
        assert opened.history().unfinished == plan
        second = opened.begin_run(RunKind.PROVISION, plan)
        opened.end_run(second, Outcome.FAILED, "why")
        assert opened.history().unfinished == plan
        assert opened.history().installed is None
        third = opened.begin_run(RunKind.PROVISION, plan)
        opened.end_run(third, Outcome.DONE)
        history = opened.history()
    assert [run.outcome for run in history.runs] == [Outcome.ABANDONED, Outcome.FAILED, Outcome.DONE]
    assert history.unfinished is None
    assert history.installed == plan.choice
    assert journal.read(state_dir) == history


def test_a_second_run_is_refused_with_the_process_id_of_the_first(state_dir: Path) -> None:
    program = (
        "import sys, pathlib, meshpki.provision.journal as journal\n"
        "with journal.locked(pathlib.Path(sys.argv[1])):\n"
        "    print('locked', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(state_dir)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout is not None
    assert other.stdin is not None
    try:
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(OperatorNeededError, match=f"process {other.pid}") as caught, journal.locked(state_dir):
            pytest.fail("two runs at once")
        assert "wait" in caught.value.todo
        assert journal.read(state_dir) == journal.History(), "reading needs no lock"
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        with journal.locked(state_dir):
            pass
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
        other.stdin.close()


def test_a_run_whose_process_is_gone_is_told_as_killed(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        (run,) = journal.read(state_dir).runs
        assert run.outcome is Outcome.RUNNING, "by us, at this moment"
    history = journal.read(state_dir)
    assert [run.outcome for run in history.runs] == [Outcome.KILLED]
    assert history.unfinished == history.plan
    with journal.locked(state_dir) as opened:
        opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        assert [run.outcome for run in journal.read(state_dir).runs] == [Outcome.ABANDONED, Outcome.RUNNING]


def test_whoever_only_looks_keeps_no_run_out(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with journal.locked(state_dir):
        pass
    monkeypatch.setattr(journal_file, "PATIENCE", 30.0)
    begun, ended = threading.Event(), threading.Event()

    def look() -> None:
        with journal_file.at_rest(state_dir) as rests:
            assert rests
            begun.set()
            ended.wait(0.2)

    looker = threading.Thread(target=look)
    looker.start()
    assert begun.wait(60)
    with journal.locked(state_dir), journal_file.at_rest(state_dir) as rests:
        assert not rests
    looker.join()


def test_a_run_that_is_just_beginning_keeps_others_out_too(state_dir: Path) -> None:
    def at(name: str) -> None:
        if name == "journal.directory":
            with pytest.raises(OperatorNeededError, match="just beginning"), journal.locked(state_dir):
                pytest.fail("two runs at once")

    with journal.locked(state_dir, checkpoint=at):
        pass


def write(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    path.chmod(0o600)


def locks(state_dir: Path) -> None:
    with journal.locked(state_dir):
        pass


@pytest.mark.parametrize("use", [locks, journal.read])
class TestWhatIsNotOursOrNotWhole:
    @pytest.fixture(autouse=True)
    def _directory(self, state_dir: Path) -> None:
        state_dir.mkdir(mode=0o700)
        self.path = state_dir / "journal.db"

    def test_another_programs_database(self, use: object, state_dir: Path) -> None:
        write(self.path, "CREATE TABLE theirs (x)")
        self.refused(use, state_dir, IntegrityError, "no journal of meshpki", "move it away")

    def test_a_journal_of_a_later_version(self, use: object, state_dir: Path) -> None:
        write(self.path, "CREATE TABLE t (x)", "PRAGMA application_id = 0x6D706B69", "PRAGMA user_version = 9")
        self.refused(use, state_dir, IntegrityError, "schema 9", "the version of meshpki")

    def test_no_database_at_all(self, use: object, state_dir: Path) -> None:
        self.path.write_bytes(b"this is a text, long enough to be read as a header " * 40)
        self.path.chmod(0o600)
        self.refused(use, state_dir, IntegrityError, "damaged", "put back a copy")

    def test_a_damaged_page(self, use: object, state_dir: Path) -> None:
        with journal.locked(state_dir) as opened:
            opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        content = bytearray(self.path.read_bytes())
        content[4096:] = b"\xa5" * (len(content) - 4096)
        self.path.write_bytes(content)
        self.refused(use, state_dir, IntegrityError, "damaged", "put back a copy")

    def test_others_can_write_it(self, use: object, state_dir: Path) -> None:
        locks(state_dir)
        self.path.chmod(0o660)
        self.refused(use, state_dir, MachineError, "mode 0660", "chmod 600")

    def test_a_symbolic_link(self, use: object, state_dir: Path, tmp_path: Path) -> None:
        write(tmp_path / "elsewhere.db", "CREATE TABLE theirs (x)")
        self.path.symlink_to(tmp_path / "elsewhere.db")
        self.refused(use, state_dir, MachineError, "no regular file", "move it away")

    def test_a_directory_that_others_can_enter(self, use: object, state_dir: Path) -> None:
        locks(state_dir)
        state_dir.chmod(0o755)
        self.refused(use, state_dir, MachineError, "mode 0755", "chmod 700")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
    def test_somebody_elses_file(self, use: object, state_dir: Path) -> None:
        locks(state_dir)
        os.chown(self.path, 65534, 65534)
        self.refused(use, state_dir, MachineError, "belongs to user 65534", "run as its owner")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
    def test_somebody_elses_directory(self, use: object, state_dir: Path) -> None:
        locks(state_dir)
        os.chown(state_dir, 65534, 65534)
        self.refused(use, state_dir, MachineError, "belongs to user 65534", "another directory")

    def test_words_that_we_did_not_write(self, use: object, state_dir: Path) -> None:
        with journal.locked(state_dir) as opened:
            opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        write(self.path, "UPDATE runs SET plan = '{}'")
        if use is journal.read:
            self.refused(use, state_dir, IntegrityError, "damaged", "put back a copy")

    def refused(
        self, use: object, state_dir: Path, kind: type[IntegrityError | MachineError], seen: str, todo: str
    ) -> None:
        assert callable(use)
        with pytest.raises(kind, match=seen) as caught:
            use(state_dir)
        assert todo in caught.value.todo


def test_a_symbolic_link_for_a_directory(tmp_path: Path, state_dir: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    state_dir.symlink_to(tmp_path / "real")
    with pytest.raises(MachineError, match="symbolic link"):
        locks(state_dir)
    state_dir.unlink()
    state_dir.symlink_to(tmp_path / "nowhere")
    with pytest.raises(MachineError, match="symbolic link"):
        locks(state_dir)


@contextlib.contextmanager
def locked_away(place: Path) -> Iterator[None]:
    """A directory that we cannot enter; as root, that another user cannot, as whom we act meanwhile."""
    place.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.seteuid(65534)
    else:
        place.chmod(0)
    try:
        yield
    finally:
        os.seteuid(os.getuid())
        place.chmod(0o700)


@pytest.mark.parametrize("below", ["", "state"])
@pytest.mark.parametrize(
    "use",
    [
        journal.read,
        locks,
        lambda place: engine.deprovision(plugin_set(), place, progress=lambda _: None),
        journal_file.others,
    ],
    ids=["read", "lock", "deprovision", "what else is there"],
)
def test_what_cannot_be_looked_at_is_not_taken_for_nothing(
    use: Callable[[Path], object], below: str, tmp_path: Path
) -> None:
    place = tmp_path / "away"
    with locked_away(place), pytest.raises(MachineError, match="Permission denied") as caught:
        use(place / below)
    assert "run as the user who owns it" in caught.value.todo


def test_a_full_disk_is_said_and_the_journal_stays_whole(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        run = opened.begin_run(RunKind.PROVISION, a_plan(state_dir))
        (pages,) = opened._connection.execute("PRAGMA page_count").fetchone()
        opened._connection.execute(f"PRAGMA max_page_count = {pages}")
        big = Change("file.a", "directory.file", "t", "w", {"path": "x" * 60_000})
        with pytest.raises(MachineError, match="full") as caught:
            opened.intend(run, big, {})
        assert "free some space" in caught.value.todo
        assert opened.made() == ()
        opened.end_run(run, Outcome.FAILED, "full")


def test_erasing_removes_a_directory_that_we_made(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        assert opened.erase() == ()
    assert list(state_dir.parent.iterdir()) == []


def test_erasing_leaves_a_directory_that_was_there(state_dir: Path) -> None:
    state_dir.mkdir(mode=0o700)
    with journal.locked(state_dir) as opened:
        opened.erase()
    assert list(state_dir.iterdir()) == []


def test_erasing_leaves_what_is_not_ours_and_names_it(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        (state_dir / "notes.txt").write_text("mine")
        assert opened.erase() == ("notes.txt",)
    assert [path.name for path in state_dir.iterdir()] == ["notes.txt"]


def test_what_is_not_ours_is_named_to_the_file(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        for name in ("logs/mine", "logs/deep/mine", "b", "copy/journal.db"):
            (state_dir / name).parent.mkdir(parents=True, exist_ok=True)
            (state_dir / name).write_text("mine")
        (state_dir / "empty").mkdir()
        (state_dir / "link").symlink_to(state_dir.parent)
        assert opened.erase() == ("b", "copy/journal.db", "empty", "link", "logs/deep/mine", "logs/mine")


def test_of_very_many_files_the_first_are_named(state_dir: Path) -> None:
    with journal.locked(state_dir) as opened:
        (state_dir / "many").mkdir()
        for number in range(200):
            (state_dir / "many" / str(number)).touch()
        assert 90 < len(opened.erase()) <= journal_file.MAX_OTHERS


def test_what_stands_beside_the_directory_and_is_not_ours_is_not_removed(state_dir: Path) -> None:
    beside = journal_file.aside(state_dir)
    beside.mkdir(mode=0o700)
    (beside / "precious").write_text("mine")
    with pytest.raises(MachineError, match="could not remove"):
        locks(state_dir)
    assert (beside / "precious").read_text() == "mine"


@pytest.mark.parametrize("parent", ["/proc", "{tmp_path}/a-file"], ids=["unwritable", "no-directory"])
def test_a_parent_that_takes_no_directory_is_told_by_the_name_that_was_given(tmp_path: Path, parent: str) -> None:
    (tmp_path / "a-file").touch()
    state_dir = Path(parent.format(tmp_path=tmp_path)) / "state"
    with pytest.raises(MachineError, match="could not make directory") as caught:
        locks(state_dir)
    assert str(state_dir) in str(caught.value)
    assert "aside" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_parent_that_may_not_be_entered_is_told_by_the_name_that_was_given(tmp_path: Path) -> None:
    """In a process that is not root: no directory is closed to root."""
    (tmp_path / "closed").mkdir(mode=0o700)
    state_dir = tmp_path / "closed" / "state"
    script = (
        "import os, sys; from pathlib import Path; from meshpki.errors import MachineError;"
        "from meshpki.provision import journal\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "try:\n    with journal.locked(Path(sys.argv[1])): pass\n"
        "except MachineError as error: print(error)"
    )
    argv = [sys.executable, "-c", script, str(state_dir)]
    found = subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout
    assert f"could not examine {state_dir}: Permission denied" in found
    assert "aside" not in found
