"""Plans in files: read back strictly, and refused with what changed when they are not what would be planned now."""

from __future__ import annotations

import contextlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from meshpki.errors import IntegrityError, MachineError, OperatorNeededError, UsageError
from meshpki.hooks import Detection, DetectRequest, Mode
from meshpki.provision import journal, saved
from meshpki.provision.base import Base, Part
from meshpki.provision.engine import InterruptedRunError
from meshpki.provision.plan import Plan
from meshpki.provision.saved import SavedPlan
from meshpki.testing.platform import NAME, DirectoryPlatform, plugin_set
from support.world import DEFAULT, World

PART = Part("file.z", "directory.file", "file z", {"path": "files/z", "names": ("x",)}, True)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def made(tmp_path: Path) -> SavedPlan:
    return SavedPlan(World(tmp_path).plan(), Base("sds", "evidence", (PART,)))


def test_save_and_load(tmp_path: Path) -> None:
    plan, path = made(tmp_path), tmp_path / "plan.json"
    saved.save(plan, path)
    assert saved.load(path) == plan
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b'\n  "plan": {' in path.read_bytes(), "a person can read it"


EDITS: dict[str, Any] = {
    "a fact": lambda document: document["plan"]["facts"].update(version="v9"),
    "a parameter": lambda document: document["plan"]["changes"][1]["params"].update(content="evil"),
    "a change left out": lambda document: document["plan"]["changes"].pop(),
    "changes moved": lambda document: document["plan"]["changes"].reverse(),
    "the mode": lambda document: document["plan"]["mode"].update(mode="file-mount"),
    "the state directory": lambda document: document["plan"].update(state_dir="/elsewhere"),
    "the digest": lambda document: document.update(digest="sha256:" + "0" * 64),
    "what stood": lambda document: document["base"]["made"].clear(),
    "the mode that stood": lambda document: document["base"].update(mode="file-mount"),
    "the digest of what stood": lambda document: document.update(base_digest="sha256:" + "0" * 64),
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_plan_is_refused(edit: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    saved.save(made(tmp_path), path)
    document = json.loads(path.read_text())
    EDITS[edit](document)
    path.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="changed after it was saved"):
        saved.load(path)


NO_PLANS: dict[str, Any] = {
    "unknown member": lambda document: document.update(more=1),
    "unknown member of the plan": lambda document: document["plan"].update(more=1),
    "unknown member of a change": lambda document: document["plan"]["changes"][0].update(more=1),
    "unknown member of the facts": lambda document: document["plan"]["facts"].update(more=1),
    "unknown member of the mode": lambda document: document["plan"]["mode"].update(more=1),
    "unknown member of the plugin": lambda document: document["plan"]["plugin"].update(more=1),
    "unknown member of the base": lambda document: document["base"].update(more=1),
    "unknown member of what stood": lambda document: document["base"]["made"][0].update(more=1),
    "missing": lambda document: document["plan"].pop("options"),
    "no base": lambda document: document.pop("base"),
    "mode of the base": lambda document: document["base"].update(mode="none"),
    "schema": lambda document: document["plan"].update(schema=2),
    "float": lambda document: document["plan"].update(schema=1.0),
    "null": lambda document: document["plan"].update(origin=None),
    "mode": lambda document: document["plan"]["mode"].update(mode="none"),
    "chosen by": lambda document: document["plan"]["mode"].update(by="magic"),
    "twice": lambda document: document["plan"]["changes"].append(document["plan"]["changes"][0]),
    "relative": lambda document: document["plan"].update(state_dir="here"),
    "id": lambda document: document["plan"]["changes"][0].update(id="../x"),
}


@pytest.mark.parametrize("edit", NO_PLANS)
def test_what_is_no_plan_says_so(edit: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    saved.save(made(tmp_path), path)
    document = json.loads(path.read_text())
    NO_PLANS[edit](document)
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="is no plan") as caught:
        saved.load(path)
    assert caught.value.todo


def test_a_huge_file_and_none_at_all(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b" " * (saved.MAX_PLAN_BYTES + 1))
    with pytest.raises(MachineError, match="larger than"):
        saved.load(path)
    with pytest.raises(MachineError, match="No such file"):
        saved.load(tmp_path / "nothing")


def check(world: World, saved_plan: SavedPlan) -> None:
    saved.still_valid(world.plugins, saved_plan, journal.read(world.state_dir))


def test_a_plan_is_valid_while_nothing_changed(world: World) -> None:
    for word in (None, Mode.FILE_MOUNT):
        plan = world.saved(word=word)
        check(world, plan)
        world.apply(plan.plan)
        check(world, plan)


def test_what_changed_is_listed(world: World) -> None:
    plan = world.saved()
    world.platform.version = "v2.0"
    with pytest.raises(OperatorNeededError, match="2 things changed since the plan was made") as caught:
        check(world, plan)
    assert caught.value.evidence == (
        "facts, version: v1.0 -> v2.0",
        "evidence which version?, answer: v1.0 -> v2.0",
    )


def test_another_version_of_the_plugin_is_a_change(world: World) -> None:
    plan = world.saved()
    from meshpki import plugins

    newer = plugins.of_objects({NAME: world.platform}, origin="meshpki-testing 1.1")
    with pytest.raises(OperatorNeededError, match="1 thing changed") as caught:
        saved.still_valid(newer, plan, journal.read(world.state_dir))
    assert caught.value.evidence == ("plugin, origin: meshpki-testing 1.0 -> meshpki-testing 1.1",)


def test_a_run_of_this_very_plan_is_gone_on_with_all_the_same(world: World) -> None:
    plan, other = world.saved(), world.saved("x=1")
    world.platform.faults.add("interrupt:file.b")
    with contextlib.suppress(InterruptedRunError):
        world.apply(plan.plan)
    world.platform.version = "v2.0"
    check(world, plan)
    with pytest.raises(OperatorNeededError):
        check(world, other)


def test_a_run_in_between_makes_it_stale_and_is_told(world: World) -> None:
    world.apply()
    plan = world.saved("a=first")
    world.apply(world.plan("c=third"))
    with pytest.raises(OperatorNeededError, match="another run changed what stands since the plan") as caught:
        check(world, plan)
    digest = journal.read(world.state_dir).runs[-1].digest
    assert caught.value.evidence[:4] == (
        f"the last run: provision, done, of the plan {digest}",
        "made file.a: no longer file a",
        "made file.b: no longer file b",
        "made file.c: now file c",
    )


@pytest.mark.parametrize("between", ["nothing", "the same", "failed and taken back", "there and back"])
def test_a_run_that_changed_nothing_does_not(between: str, world: World) -> None:
    world.apply()
    plan = world.saved("a=other", "b=second")
    match between:
        case "the same":
            world.apply()
        case "failed and taken back":
            world.platform.faults.add("gate:file.c")
            with contextlib.suppress(MachineError):
                world.apply(world.plan(*DEFAULT, "c=third"))
            world.platform.faults.clear()
        case "there and back":
            world.apply(world.plan(*DEFAULT, "c=third"))
            world.apply()
    check(world, plan)
    world.apply(plan.plan)
    assert world.files() == {"a": "other", "b": "second"}


def test_what_it_removed_itself_does_not(world: World) -> None:
    world.apply()
    plan = world.saved("a=first")
    assert [removal.id for removal in plan.plan.removals] == ["file.b"]
    world.apply(plan.plan)
    check(world, plan)
    assert not world.apply(plan.plan).changed


def test_a_removal_of_everything_makes_it_stale(world: World) -> None:
    world.apply()
    plan = world.saved("a=other", "b=second")
    world.remove()
    with pytest.raises(OperatorNeededError) as caught:
        check(world, plan)
    assert caught.value.evidence[0] == "the last run: none is in the journal"


def test_another_mode_in_between_makes_it_stale(world: World) -> None:
    world.apply()
    plan = world.saved("a=other", "b=second")
    world.apply(world.plan(word=Mode.FILE_MOUNT))
    with pytest.raises(OperatorNeededError) as caught:
        check(world, plan)
    assert "mode: sds, by evidence -> file-mount, by operator" in caught.value.evidence


def test_provision_goes_on_with_the_plan_of_a_broken_run(world: World) -> None:
    def unfinished(*files: str) -> Plan | None:
        return saved.unfinished(world.plugins, NAME, {"file": files}, journal.read(world.state_dir))

    plan = world.plan()
    assert unfinished(*DEFAULT) is None
    world.platform.faults.add("interrupt:file.b")
    with contextlib.suppress(InterruptedRunError):
        world.apply(plan)
    assert unfinished(*DEFAULT) == plan
    assert unfinished("a=1") is None, "other options, another plan"
    world.platform.faults.clear()
    world.apply(plan)
    assert unfinished(*DEFAULT) is None


def test_the_same_directory_by_another_name_is_the_same(world: World, tmp_path: Path) -> None:
    """Of a platform whose evidence names the directory, as that of a machine does."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    asked: list[Path] = []
    detect = DirectoryPlatform.detect

    def noted(self: DirectoryPlatform, request: DetectRequest) -> Detection:
        asked.append(request.state_dir)
        return detect(self, request)

    noted.meshpki_impl = detect.meshpki_impl  # type: ignore[attr-defined]  # hookimpl's mark
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DirectoryPlatform, "detect", noted)
        world.plugins = plugin_set(world.platform)
        world.state_dir = tmp_path / "link" / "state"
        check(world, world.saved())
    assert asked == [tmp_path / "real" / "state"] * 2
