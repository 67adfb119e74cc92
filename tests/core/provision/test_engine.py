"""The engine, on a platform that is a directory: what it does, refuses, takes back, and says."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import ExitCode, MachineError, OperatorNeededError, PluginError
from meshpki.hooks import EffectState, Mode, Observation
from meshpki.provision import engine, journal, status
from meshpki.provision.base import Base
from meshpki.provision.engine import Deed, InterruptedRunError, Report
from meshpki.provision.journal import Outcome
from meshpki.provision.standing import Standing
from meshpki.provision.status import Installed
from meshpki.testing import failpoints
from meshpki.testing.platform import MARK, NAME
from support.world import DEFAULT, World

if TYPE_CHECKING:
    from meshpki.provision.plan import Plan


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def deeds(report: Report) -> list[tuple[str, Deed]]:
    return [(result.id, result.deed) for result in report.results]


def test_a_first_run_makes_everything_in_order(world: World) -> None:
    report = world.apply()
    assert deeds(report) == [("root", Deed.MADE), ("file.a", Deed.MADE), ("file.b", Deed.MADE)]
    assert report.changed
    assert world.files() == {"a": "first", "b": "second"}
    assert world.platform.calls == [
        "apply root", "gate root", "apply file.a", "gate file.a", "apply file.b", "gate file.b"
    ]  # fmt: skip
    assert [line for line in world.lines if line.startswith("step")] == [
        "step 1 of 3: directory files", "step 2 of 3: file a", "step 3 of 3: file b"
    ]  # fmt: skip
    assert world.outcome() == (Outcome.DONE, "")


def test_a_second_run_changes_nothing_and_says_so(world: World) -> None:
    world.apply()
    world.platform.calls.clear()
    assert not any(standing.pending for standing in engine.survey(world.plugins, world.plan()))
    report = world.apply()
    assert not report.changed
    assert {deed for _, deed in deeds(report)} == {Deed.KEPT}
    assert world.platform.calls == []


def test_removing_takes_back_everything_in_reverse_and_nothing_else(world: World, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    world.apply()
    report = world.remove()
    assert deeds(report) == [("file.b", Deed.REMOVED), ("file.a", Deed.REMOVED), ("root", Deed.REMOVED)]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert world.remove() == Report(())


def test_removing_leaves_files_of_others_in_the_state_directory(world: World) -> None:
    world.apply()
    (world.state_dir / "mine").write_text("mine")
    assert world.remove().left == ("mine",)
    assert [path.name for path in world.state_dir.iterdir()] == ["mine"]


def test_an_update_changes_what_differs_alone_and_is_removed_whole(world: World, tmp_path: Path) -> None:
    world.apply()
    report = world.apply(world.plan("a=other", "b=second"))
    assert deeds(report) == [("root", Deed.KEPT), ("file.a", Deed.UPDATED), ("file.b", Deed.KEPT)]
    assert world.files() == {"a": "other", "b": "second"}
    world.remove()
    assert list(tmp_path.iterdir()) == [], "the first undo record counts: there was nothing before"


def test_what_the_plan_has_no_place_for_is_removed_after_the_changes(world: World) -> None:
    world.apply()
    report = world.apply(world.plan("c=third", "b=second"))
    assert deeds(report)[-2:] == [("file.b", Deed.KEPT), ("file.a", Deed.REMOVED)]
    assert world.files() == {"b": "second", "c": "third"}
    assert world.made() == ["root", "file.b", "file.c"]
    assert "step 4 of 4: remove: file a" in world.lines


def test_something_foreign_is_refused_before_anything_is_changed(world: World) -> None:
    (world.state_dir / "files").mkdir(parents=True)
    world.state_dir.chmod(0o700)
    for name in ("a", "b"):
        (world.state_dir / "files" / name).write_text("somebody's")
    with pytest.raises(OperatorNeededError, match="2 of 3 parts: something that meshpki did not make") as caught:
        world.apply()
    assert [line.partition(":")[0] for line in caught.value.evidence] == ["file a", "file b"]
    assert caught.value.exit_code is ExitCode.OPERATOR_NEEDED
    assert world.platform.calls == []
    assert world.files() == {"a": "somebody's", "b": "somebody's"}


def test_what_is_ours_and_damaged_is_refused_and_not_called_foreign(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from meshpki.testing import platform

    world.apply()
    plan = world.plan("a=other", "b=second")
    seen = Observation(EffectState.DAMAGED, "half of it is gone; to do: put it back")
    monkeypatch.setattr(platform._File, "observe", lambda self: seen)
    with pytest.raises(OperatorNeededError, match=r"2 of 3 parts: what meshpki made is damaged; wanted") as caught:
        world.apply(plan)
    assert caught.value.todo == "look at it, put right what is damaged, then run the same command again"
    assert caught.value.evidence[0] == "file a: half of it is gone; to do: put it back"
    assert world.files() == {"a": "first", "b": "second"}
    standings = engine.survey(world.plugins, plan)
    assert [(one.pending, one.blocked) for one in standings] == [(False, False), (True, True), (True, True)]


def test_what_stood_there_already_is_used_and_left_in_the_end(world: World) -> None:
    (world.state_dir / "files").mkdir(parents=True)
    world.state_dir.chmod(0o700)
    assert deeds(world.apply())[0] == ("root", Deed.FOUND)
    assert world.made() == ["file.a", "file.b"]
    world.remove()
    assert [path.name for path in world.state_dir.iterdir()] == ["files"]


@pytest.mark.parametrize("stage", ["apply", "gate"])
def test_a_change_that_fails_is_taken_back_and_the_error_says_what_remains(stage: str, world: World) -> None:
    world.platform.faults.add(f"{stage}:file.b")
    with pytest.raises(MachineError, match=f"{stage} of file.b fails") as caught:
        world.apply()
    assert caught.value.evidence[0] == "file b: taken back"
    assert caught.value.evidence[1] == "still there: directory files, file a"
    assert world.files() == {"a": "first"}
    assert world.made() == ["root", "file.a"]
    outcome, reason = world.outcome()
    assert outcome is Outcome.FAILED
    assert reason.startswith("step 3 of 3: file b")
    world.platform.faults.clear()
    assert deeds(world.apply()) == [("root", Deed.KEPT), ("file.a", Deed.KEPT), ("file.b", Deed.MADE)]


@pytest.mark.parametrize("stage", ["apply", "gate"])
def test_a_failed_update_brings_back_what_was_there(stage: str, world: World, tmp_path: Path) -> None:
    world.apply()
    world.platform.faults.add(f"{stage}:file.a")
    with pytest.raises(MachineError):
        world.apply(world.plan("a=other", "b=second"))
    assert world.files() == {"a": "first", "b": "second"}
    world.platform.faults.clear()
    assert not world.apply().changed
    world.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_change_that_cannot_be_taken_back_stays_in_the_journal(world: World, tmp_path: Path) -> None:
    world.platform.faults |= {"gate:file.a", "undo:file.a"}
    with pytest.raises(MachineError, match=r"gate of file\.a fails") as caught:
        world.apply()
    assert "could not be taken back" in caught.value.evidence[0]
    assert f"`meshpki deprovision --state-dir {world.state_dir}`" in caught.value.evidence[1]
    assert world.made() == ["root", "file.a"]
    world.platform.faults.clear()
    assert deeds(world.apply())[1] == ("file.a", Deed.PROVEN)
    world.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_written_does_not_hide_what_failed(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a full disk: the change fails by it, and then the line about that."""

    def full(self: journal.Journal, step: int, reason: str) -> None:
        raise MachineError("could not write the journal: database or disk is full")

    world.platform.faults.add("gate:file.a")
    with monkeypatch.context() as patch, pytest.raises(MachineError, match=r"gate of file\.a fails") as caught:
        patch.setattr(journal.Journal, "taken_back", full)
        world.apply()
    assert caught.value.evidence[0] == "file a: taken back"
    assert "could not be written down: could not write the journal" in caught.value.evidence[1]
    assert world.files() == {}
    world.platform.faults.clear()
    assert deeds(world.apply())[1:] == [("file.a", Deed.MADE), ("file.b", Deed.MADE)]
    world.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_effect_that_crashes_is_taken_back_and_the_plugin_named(world: World) -> None:
    world.platform.faults.add("crash:file.a")
    with pytest.raises(PluginError, match=r"plugin 'directory' of meshpki-testing 1\.0 failed in apply of file\.a"):
        world.apply()
    assert world.files() == {}


def test_ctrl_c_leaves_a_journal_to_go_on_with(world: World) -> None:
    world.platform.faults.add("interrupt:file.b")
    with pytest.raises(InterruptedRunError, match="interrupted at step 3 of 3: file b") as caught:
        world.apply()
    assert "same command again" in caught.value.todo
    assert f"`meshpki deprovision --state-dir {world.state_dir}`" in caught.value.todo
    assert world.outcome() == (Outcome.INTERRUPTED, "step 3 of 3: file b")
    world.platform.faults.clear()
    report = world.apply()
    assert deeds(report) == [("root", Deed.KEPT), ("file.a", Deed.KEPT), ("file.b", Deed.MADE)]
    assert world.files() == {"a": "first", "b": "second"}


def test_a_removal_that_fails_keeps_the_rest_and_can_be_gone_on_with(world: World, tmp_path: Path) -> None:
    world.apply()
    world.platform.faults.add("undo:file.a")
    with pytest.raises(MachineError, match=r"undo of file\.a fails"):
        world.remove()
    assert world.made() == ["root", "file.a"]
    world.platform.faults.clear()
    world.remove()
    assert list(tmp_path.iterdir()) == []


def test_an_undo_that_does_nothing_is_found_out(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.apply()
    from meshpki.testing import platform

    monkeypatch.setattr(platform._File, "undo", lambda self, record, progress: None)
    with pytest.raises(PluginError, match="file b: still there after it was taken back"):
        world.remove()
    assert world.made() == ["root", "file.a", "file.b"]


def test_a_plan_that_does_not_know_what_is_there_is_refused(world: World) -> None:
    stale = world.plan("c=third")
    world.apply()
    with pytest.raises(OperatorNeededError, match="the journal holds what this plan does not know: file a, file b"):
        world.apply(stale)
    assert world.files() == {"a": "first", "b": "second"}


class TestAgreedTo:
    """What a person saw and agreed to is what is done, or nothing is."""

    def apply(self, world: World, plan: Plan, base: Base, agreed: tuple[Standing, ...] = ()) -> Report:
        with journal.locked(world.state_dir) as opened:
            return engine.apply(world.plugins, plan, opened, base=base, agreed=agreed, progress=world.lines.append)

    def test_a_plan_is_refused_on_another_base(self, world: World) -> None:
        shown = world.saved("c=third")
        world.apply()
        world.platform.calls.clear()
        with pytest.raises(OperatorNeededError, match="another run changed what stands since the plan was shown") as (
            caught
        ):
            self.apply(world, shown.plan, shown.base)
        assert "made file.a: now file a" in caught.value.evidence
        assert world.files() == {"a": "first", "b": "second"}
        assert world.platform.calls == []

    def test_and_leaves_no_journal_where_there_was_none(self, world: World) -> None:
        world.apply()
        shown = world.saved("c=third")
        world.remove()
        with pytest.raises(OperatorNeededError):
            self.apply(world, shown.plan, shown.base)
        assert not world.state_dir.exists()

    def test_what_was_shown_as_kept_and_is_not_any_more_is_refused(self, world: World) -> None:
        world.apply()
        shown = world.saved("a=first", "b=other")
        agreed = engine.survey(world.plugins, shown.plan)
        (world.state_dir / "files" / "a").write_text(f"{MARK}edited")
        with pytest.raises(OperatorNeededError, match="stood as planned when the plan was shown") as caught:
            self.apply(world, shown.plan, shown.base, agreed)
        assert caught.value.evidence == ("file a: other content",)
        assert world.files() == {"a": "edited", "b": "second"}
        assert self.apply(world, shown.plan, shown.base).changed, "where nobody was asked, the plan is the word"

    def test_a_list_to_be_removed_is_refused_when_it_became_another(self, world: World) -> None:
        world.apply()
        shown = world.saved().base
        world.apply(world.plan(*DEFAULT, "c=third"))
        with pytest.raises(OperatorNeededError, match="since the list was shown") as caught:
            engine.deprovision(world.plugins, world.state_dir, base=shown, progress=world.lines.append)
        assert caught.value.evidence[1:] == ("made file.c: now file c",)
        assert set(world.files()) == {"a", "b", "c"}

    def test_what_was_made_after_nothing_was_found_is_not_removed(self, world: World) -> None:
        shown = world.saved().base
        world.apply()
        with pytest.raises(OperatorNeededError):
            engine.deprovision(world.plugins, world.state_dir, base=shown, progress=world.lines.append)
        assert set(world.files()) == {"a", "b"}


def test_a_plan_from_before_a_higher_mode_was_installed_is_refused(world: World) -> None:
    world.platform.modes = (Mode.SDS,)
    stale = world.plan()
    world.platform.modes = (Mode.POD_CERTIFICATE, Mode.SDS)
    world.apply()
    with pytest.raises(OperatorNeededError, match="pod-certificate is installed, the plan is for sds"):
        world.apply(stale)


def test_a_run_never_lowers_the_mode_by_itself(world: World) -> None:
    world.apply()
    world.platform.modes = (Mode.FILE_MOUNT,)
    with pytest.raises(OperatorNeededError, match="sds is installed"):
        world.plan()
    world.apply(world.plan(word=Mode.FILE_MOUNT))
    world.platform.modes = (Mode.SDS, Mode.FILE_MOUNT)
    assert world.plan().mode is Mode.FILE_MOUNT, "the operator's word holds"
    assert world.plan(word=Mode.SDS).mode is Mode.SDS


class TestStatus:
    def look(self, world: World) -> status.InstallationStatus:
        return status.status(world.plugins, world.state_dir, journal.read(world.state_dir))

    def test_absent(self, world: World) -> None:
        assert self.look(world).installed is Installed.ABSENT
        assert not self.look(world).healthy
        assert self.look(world).problem == ""

    def test_a_journal_without_a_run_is_no_lost_one(self, world: World) -> None:
        with journal.locked(world.state_dir):
            (world.state_dir / "mine").touch()
        assert self.look(world).problem == ""
        (world.state_dir / "journal.db").unlink()
        assert "no journal is there, and yet there are mine" in self.look(world).problem

    def test_complete_and_healthy_then_sick(self, world: World) -> None:
        world.apply()
        found = self.look(world)
        assert (found.installed, found.platform, found.healthy) == (Installed.COMPLETE, NAME, True)
        assert found.changes == ("root", "file.a", "file.b")
        (world.state_dir / "files" / "a").unlink()
        assert not self.look(world).healthy

    def test_unfinished(self, world: World) -> None:
        world.platform.faults.add("apply:file.b")
        with contextlib.suppress(MachineError):
            world.apply()
        found = self.look(world)
        assert (found.installed, found.healthy) == (Installed.UNFINISHED, False)

    def test_a_plugin_that_is_gone_is_a_problem_and_no_accident(self, world: World) -> None:
        world.apply()
        from meshpki.plugins import PluginSet

        found = status.status(PluginSet(), world.state_dir, journal.read(world.state_dir))
        assert "no platform 'directory'" in found.problem
        assert not found.healthy


def test_survey_tells_how_each_change_stands(world: World) -> None:
    world.apply()
    (world.state_dir / "files" / "b").unlink()
    states = [standing.observation.state for standing in engine.survey(world.plugins, world.plan("a=x", "b=second"))]
    assert states == [EffectState.DONE, EffectState.DIFFERENT, EffectState.ABSENT]


def test_a_file_lost_meanwhile_is_made_again(world: World) -> None:
    world.apply()
    (world.state_dir / "files" / "b").unlink()
    assert deeds(world.apply())[2] == ("file.b", Deed.UPDATED)
    assert world.files() == {"a": "first", "b": "second"}


CHECKPOINTS = failpoints.of_provision(("root", "file.a", "file.b"))


@pytest.mark.parametrize("place", CHECKPOINTS)
def test_ctrl_c_at_any_checkpoint_can_be_gone_on_with_and_taken_back(place: str, world: World, tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        if name == place:
            raise KeyboardInterrupt

    plan = world.plan()
    with (
        pytest.raises((InterruptedRunError, KeyboardInterrupt)) as caught,
        journal.locked(world.state_dir, checkpoint=interrupt) as opened,
    ):
        base = Base.of(opened.history())
        engine.apply(world.plugins, plan, opened, base=base, progress=world.lines.append, checkpoint=interrupt)
    if caught.type is InterruptedRunError:
        assert world.outcome()[0] is Outcome.INTERRUPTED
    world.apply(plan)
    assert world.files() == {"a": "first", "b": "second"}
    world.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", failpoints.of_deprovision(("root", "file.a", "file.b")))
def test_ctrl_c_at_any_checkpoint_of_a_removal(place: str, world: World, tmp_path: Path) -> None:
    def interrupt(name: str) -> None:
        if name == place:
            raise KeyboardInterrupt

    world.apply()
    with pytest.raises((InterruptedRunError, KeyboardInterrupt)):
        engine.deprovision(world.plugins, world.state_dir, progress=world.lines.append, checkpoint=interrupt)
    world.remove()
    assert list(tmp_path.iterdir()) == []
