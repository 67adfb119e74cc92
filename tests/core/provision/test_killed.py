"""kill -9 at every instruction that matters: the next run ends where an unbroken run ends."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import OperatorNeededError
from meshpki.provision import facts, journal, saved
from meshpki.provision import plan as plans
from meshpki.provision.base import Base
from meshpki.provision.saved import SavedPlan
from meshpki.testing import failpoints
from meshpki.testing.killed import apply, deprovision, killed_at, provision
from meshpki.testing.platform import NAME, plugin_set

if TYPE_CHECKING:
    from meshpki.provision.facts import Given

GIVEN = {"file": ("a=first", "b=second")}
CHANGES = ("root", "file.a", "file.b")
PROVISION = failpoints.of_provision(CHANGES)
DEPROVISION = failpoints.of_deprovision(CHANGES)


def nothing(name: str) -> None:
    pass


def world(state_dir: Path) -> dict[str, bytes | str]:
    """Every path with its content; the journal by what it says was applied, its files' bytes aside."""
    parent = state_dir.parent
    found: dict[str, bytes | str] = {}
    for path in sorted(parent.rglob("*")):
        if path.name.startswith("journal.db"):
            continue
        found[str(path.relative_to(parent))] = path.read_bytes() if path.is_file() else "directory"
    return found


def applied(state_dir: Path) -> list[tuple[object, ...]]:
    with sqlite3.connect(state_dir / "journal.db") as connection:
        rows = connection.execute("SELECT * FROM applied ORDER BY position").fetchall()
        assert connection.execute("SELECT count(*) FROM steps WHERE state = 'intent'").fetchone() == (0,)
        assert connection.execute("SELECT outcome FROM runs ORDER BY id DESC LIMIT 1").fetchone() == ("done",)
    connection.close()
    return rows


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("unbroken") / "state"
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    return state_dir


def test_every_checkpoint_of_a_run_is_named(tmp_path: Path) -> None:
    passed = failpoints.Recorder()
    provision(plugin_set(), NAME, tmp_path / "state", GIVEN, passed)
    assert tuple(passed.names) == PROVISION
    passed = failpoints.Recorder()
    deprovision(plugin_set(), tmp_path / "state", passed)
    assert tuple(passed.names) == DEPROVISION


@pytest.mark.parametrize("failpoint", [*PROVISION, "file.a.half", "file.b.half"])
def test_provision_killed_anywhere_ends_where_an_unbroken_run_ends(
    failpoint: str, tmp_path: Path, unbroken: Path
) -> None:
    state_dir = tmp_path / "state"
    assert killed_at(failpoint, "provision", NAME, state_dir, GIVEN)
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert world(state_dir) == world(unbroken)
    assert applied(state_dir) == applied(unbroken)


@pytest.mark.parametrize("failpoint", [*PROVISION, "file.a.half", "file.b.half"])
def test_deprovision_after_a_killed_provision_leaves_nothing(failpoint: str, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    assert killed_at(failpoint, "provision", NAME, state_dir, GIVEN)
    deprovision(plugin_set(), state_dir, nothing)
    assert world(state_dir) == {}


@pytest.mark.parametrize("failpoint", DEPROVISION)
def test_deprovision_killed_anywhere_leaves_nothing_in_the_end(failpoint: str, tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert killed_at(failpoint, "deprovision", NAME, state_dir, GIVEN)
    deprovision(plugin_set(), state_dir, nothing)
    assert world(state_dir) == {}


@pytest.mark.parametrize("failpoint", DEPROVISION)
def test_provision_after_a_killed_deprovision_makes_all_of_it_again(
    failpoint: str, tmp_path: Path, unbroken: Path
) -> None:
    state_dir = tmp_path / "state"
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert killed_at(failpoint, "deprovision", NAME, state_dir, GIVEN)
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert world(state_dir) == world(unbroken)
    changes = [row[0] for row in applied(state_dir)]
    assert sorted(map(str, changes)) == sorted(CHANGES)


@pytest.mark.parametrize("second", [f"file.a.{step}" for step in failpoints.RESUMED_CHANGE])
def test_killed_again_while_going_on(second: str, tmp_path: Path, unbroken: Path) -> None:
    state_dir = tmp_path / "state"
    assert killed_at("file.a.applied", "provision", NAME, state_dir, GIVEN)
    assert killed_at(second, "provision", NAME, state_dir, GIVEN)
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert world(state_dir) == world(unbroken)
    assert applied(state_dir) == applied(unbroken)


def test_killed_at_every_step_in_turn_it_still_arrives(tmp_path: Path, unbroken: Path) -> None:
    state_dir = tmp_path / "state"
    killed = [name for name in PROVISION if killed_at(name, "provision", NAME, state_dir, GIVEN)]
    assert len(killed) > len(CHANGES) * 3
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert world(state_dir) == world(unbroken)
    assert applied(state_dir) == applied(unbroken)


UPDATED = {"file": ("a=changed", "c=third")}
UPDATE = (*failpoints.of_update(("file.a", "file.c"), ("file.b",)), "file.a.half", "file.c.half")


@pytest.fixture(scope="module")
def updated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state_dir = tmp_path_factory.mktemp("updated") / "state"
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    provision(plugin_set(), NAME, state_dir, UPDATED, nothing)
    assert not (state_dir / "files" / "b").exists()
    return state_dir


@pytest.mark.parametrize("failpoint", UPDATE)
@pytest.mark.parametrize("then", ["provision", "deprovision", "the plan before"])
def test_an_update_killed_anywhere(failpoint: str, then: str, tmp_path: Path, updated: Path, unbroken: Path) -> None:
    state_dir = tmp_path / "state"
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    assert killed_at(failpoint, "provision", NAME, state_dir, UPDATED)
    if then == "provision":
        provision(plugin_set(), NAME, state_dir, UPDATED, nothing)
        assert world(state_dir) == world(updated)
        assert applied(state_dir) == applied(updated)
    elif then == "the plan before":
        provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
        assert world(state_dir) == world(unbroken)
    if then != "provision":
        deprovision(plugin_set(), state_dir, nothing)
        assert world(state_dir) == {}


def test_every_checkpoint_of_an_update_is_named(tmp_path: Path) -> None:
    passed = failpoints.Recorder()
    provision(plugin_set(), NAME, tmp_path / "state", GIVEN, nothing)
    provision(plugin_set(), NAME, tmp_path / "state", UPDATED, passed)
    assert (*passed.names, "file.a.half", "file.c.half") == UPDATE


def save_plan(state_dir: Path, given: Given, file: Path) -> Path:
    plugins, history = plugin_set(), journal.read(state_dir)
    plan = plans.make_plan(plugins, facts.detect(plugins, NAME, state_dir, given), state_dir, history=history)
    saved.save(SavedPlan(plan, Base.of(history)), file)
    return file


@pytest.mark.parametrize("failpoint", [*PROVISION, "file.a.half", "file.b.half"])
def test_a_saved_plan_killed_anywhere_is_gone_on_with_and_not_stale(
    failpoint: str, tmp_path: Path, unbroken: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state_dir = tmp_path / "state"
    file = save_plan(state_dir, GIVEN, tmp_path_factory.mktemp("plans") / "plan.json")
    assert killed_at(failpoint, "apply", NAME, file, {})
    apply(plugin_set(), file, nothing)
    assert world(state_dir) == world(unbroken)
    assert applied(state_dir) == applied(unbroken)
    assert not apply(plugin_set(), file, nothing).changed


@pytest.mark.parametrize("failpoint", UPDATE)
@pytest.mark.parametrize("then", ["the same plan", "the one before", "a removal"])
def test_a_saved_update_killed_anywhere(
    failpoint: str, then: str, tmp_path: Path, updated: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The same plan goes on; once it has begun to change anything, a plan that was made before it is stale."""
    state_dir, place = tmp_path / "state", tmp_path_factory.mktemp("plans")
    provision(plugin_set(), NAME, state_dir, GIVEN, nothing)
    file = save_plan(state_dir, UPDATED, place / "plan.json")
    other = save_plan(state_dir, {"file": ("a=else", "b=second")}, place / "other.json")
    before = Base.of(journal.read(state_dir))
    assert killed_at(failpoint, "apply", NAME, file, {})
    if then == "the one before":
        if Base.of(journal.read(state_dir)) == before:
            apply(plugin_set(), other, nothing)
        else:
            with pytest.raises(OperatorNeededError, match="another run changed what stands"):
                apply(plugin_set(), other, nothing)
    elif then == "the same plan":
        apply(plugin_set(), file, nothing)
        assert world(state_dir) == world(updated)
        assert applied(state_dir) == applied(updated)
    deprovision(plugin_set(), state_dir, nothing)
    assert world(state_dir) == {}
