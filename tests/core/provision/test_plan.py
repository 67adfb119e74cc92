"""Plans: made from a platform's answers, told by their digest, saved and read back strictly."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from meshpki import plugins as plugin_sets
from meshpki.errors import OperatorNeededError, PluginError, UsageError
from meshpki.hooks import Change, Detection, Evidence, Mode, PlanRequest, Projection
from meshpki.provision import codec, compare, facts
from meshpki.provision import plan as plans
from meshpki.provision.mode import ChosenBy, ModeChoice
from meshpki.provision.plan import Plan, Removal
from meshpki.testing.platform import NAME, DirectoryPlatform, plugin_set

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
IDS = st.from_regex(r"[a-z][a-z0-9-]{0,5}(\.[a-z]{1,3})?", fullmatch=True)
VALUES = TEXT | st.integers(-(2**53) + 1, 2**53 - 1) | st.booleans() | st.lists(TEXT, max_size=3).map(tuple)
PARAMS = st.dictionaries(TEXT.filter(bool), VALUES, max_size=4)
CHANGES = st.builds(Change, IDS, IDS, TEXT, TEXT, PARAMS, st.lists(TEXT, max_size=2).map(tuple), TEXT, TEXT, TEXT)
DETECTIONS = st.builds(
    Detection,
    version=TEXT,
    distribution=TEXT,
    modes=st.sets(st.sampled_from(Mode)).map(lambda found: tuple(mode for mode in Mode if mode in found)),
    evidence=st.lists(st.builds(Evidence, TEXT, TEXT, TEXT), max_size=2).map(tuple),
    facts=PARAMS,
    emulated_version=TEXT,
    node_versions=st.lists(TEXT, max_size=2).map(tuple),
)
PLANS = st.builds(
    Plan,
    platform=st.just("acme"),
    origin=TEXT,
    api_version=st.integers(0, 9),
    state_dir=TEXT.map(lambda text: "/" + text),
    options=PARAMS,
    detection=DETECTIONS,
    choice=st.builds(ModeChoice, st.sampled_from(Mode), st.sampled_from(ChosenBy), TEXT),
    changes=st.lists(CHANGES, max_size=3, unique_by=lambda change: change.id).map(tuple),
    removals=st.just(()),
)


def made(tmp_path: Path, platform: DirectoryPlatform | None = None, **given: Any) -> Plan:
    plugins = plugin_set(platform)
    return plans.make_plan(plugins, facts.detect(plugins, NAME, tmp_path, given), tmp_path)


@given(PLANS)
def test_a_plan_comes_back_as_it_went(plan: Plan) -> None:
    back = plans.from_json(codec.decode(codec.canonical(plans.to_json(plan))))
    assert back == plan
    assert back.digest == plan.digest


@given(PLANS, PLANS)
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow], deadline=None)
def test_two_plans_differ_in_words_just_when_their_digests_differ(one: Plan, two: Plan) -> None:
    found = compare.differences(one, two)
    assert bool(found) == (one.digest != two.digest)
    assert [item for item in found if item.old == item.new] == [], "and its two sides never look alike"
    assert compare.differences(one, one) == ()


@given(PLANS, st.data())
def test_any_changed_fact_changes_the_digest(plan: Plan, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([field.name for field in fields(Detection)]))
    other = replace(plan.detection, **{name: getattr(data.draw(DETECTIONS), name)})
    changed = replace(plan, detection=other)
    same = plans.to_json(changed) == plans.to_json(plan) and repr(changed) == repr(plan)
    assert (changed.digest == plan.digest) == same


@given(PLANS, st.randoms())
def test_the_digest_does_not_depend_on_the_order_of_options(plan: Plan, random: object) -> None:
    names = list(plan.options)
    random.shuffle(names)  # type: ignore[attr-defined]  # hypothesis' Random
    assert replace(plan, options={name: plan.options[name] for name in names}).digest == plan.digest


def test_a_plan_is_made_of_what_the_hooks_answer_in_their_order(tmp_path: Path) -> None:
    plan = made(tmp_path)
    assert [change.id for change in plan.changes] == ["root", "file.a", "file.b"]
    assert plan.mode is Mode.SDS
    assert plan.choice.by is ChosenBy.EVIDENCE
    assert plan.origin == "meshpki-testing 1.0"
    assert plan.options == {"directory": "files", "file": ("a=first", "b=second")}
    assert plan.state_dir == str(tmp_path)
    assert made(tmp_path).digest == plan.digest
    assert not list(tmp_path.iterdir()), "planning changes nothing"


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"version": "v2.0"}, "facts, version: v1.0 -> v2.0"),
        ({"modes": (Mode.SDS,)}, 'facts, modes: ["sds","file-mount"] -> ["sds"]'),
    ],
)
def test_a_changed_fact_is_told_in_words(change: dict[str, Any], difference: str, tmp_path: Path) -> None:
    before, after = made(tmp_path), made(tmp_path, DirectoryPlatform(**change))
    assert difference in [str(item) for item in compare.differences(before, after)]


def test_each_question_of_the_evidence_is_told_by_itself(tmp_path: Path) -> None:
    plan = made(tmp_path)
    asked = [Evidence("a?", "long " * 30 + end, "source") for end in ("here", "there")]
    one, other = (
        replace(plan, detection=replace(plan.detection, evidence=(Evidence("b?", "no", "x"), each))) for each in asked
    )
    common = "…" + ("long " * 30)[-30:]
    assert [str(item) for item in compare.differences(one, other)] == [
        f"evidence a?, answer: {common}here -> {common}there"
    ]
    gone = replace(plan, detection=replace(plan.detection, evidence=()))
    assert [str(item) for item in compare.differences(one, gone)] == [
        "evidence b?: no longer no",
        f"evidence a?: no longer {('long ' * 30)[:119]}…",
    ]


VALUE_PAIRS = st.tuples(VALUES, VALUES).filter(lambda pair: repr(pair[0]) != repr(pair[1]))
LONG = st.tuples(st.text("ab", min_size=100, max_size=300), TEXT, TEXT).filter(lambda found: found[1] != found[2])


@given(VALUE_PAIRS | LONG.map(lambda found: (found[0] + found[1], found[0] + found[2])))
def test_long_values_and_values_of_two_kinds_are_shown_where_they_differ(pair: tuple[Any, Any]) -> None:
    one, other = ({"x": list(value) if isinstance(value, tuple) else value} for value in pair)
    (difference,) = compare.between(one, other)
    assert difference.old != difference.new
    assert max(len(difference.old), len(difference.new)) <= compare.MAX_SHOWN


def test_yes_and_one_are_not_the_same(tmp_path: Path) -> None:
    plan = made(tmp_path)
    one, yes = replace(plan, options={"x": 1}), replace(plan, options={"x": True})
    assert [str(item) for item in compare.differences(one, yes)] == ["options, x: 1 -> true"]


def test_changed_changes_are_told_in_words(tmp_path: Path) -> None:
    before, after = made(tmp_path), made(tmp_path, file=("a=other", "c=third"))
    told = [str(item) for item in compare.differences(before, after)]
    assert "change file.a, params, content: first -> other" in told
    assert told == [
        'options, file: ["a=first","b=second"] -> ["a=other","c=third"]',
        "change file.a, params, content: first -> other",
        "change file.b: no longer file b",
        "change file.c: now file c",
    ]


def test_an_order_that_changed_is_told(tmp_path: Path) -> None:
    before, after = made(tmp_path), made(tmp_path, file=("b=second", "a=first"))
    told = [str(item) for item in compare.differences(before, after)]
    assert 'order of changes: ["root","file.a","file.b"] -> ["root","file.b","file.a"]' in told


def test_an_operators_word_is_written_down(tmp_path: Path) -> None:
    plugins = plugin_set()
    found = facts.detect(plugins, NAME, tmp_path, {})
    plan = plans.make_plan(plugins, found, tmp_path, word=Mode.FILE_MOUNT)
    assert (plan.mode, plan.choice.by) == (Mode.FILE_MOUNT, ChosenBy.OPERATOR)


def test_what_is_not_possible_needs_the_operator(tmp_path: Path) -> None:
    with pytest.raises(OperatorNeededError, match=r"the disk is round.*use another directory"):
        made(tmp_path, DirectoryPlatform(impossible="the disk is round"))


def test_a_change_planned_by_two_hooks_names_the_plugin(tmp_path: Path) -> None:
    class Twice(DirectoryPlatform):
        @plugin_sets.hookimpl
        def plan_token_projection(self, request: PlanRequest) -> Projection:
            return Projection((Change("file.a", "directory.file", "t", "w", {"id": "file.a", "path": "a"}),))

    with pytest.raises(
        PluginError, match=r"plugin 'directory' of meshpki-testing 1\.0 plans the change 'file\.a' twice"
    ):
        made(tmp_path, Twice())


def test_parameters_that_make_no_sense_are_refused_at_plan_time(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a path below"):
        made(tmp_path, directory="../elsewhere")


@pytest.mark.parametrize(
    ("given_options", "seen"),
    [
        ({"unknown": "x"}, "no option 'unknown'"),
        ({"directory": 1}, "option 'directory' is int"),
        ({"file": "a=b"}, "option 'file' is str"),
        ({"file": (1,)}, "option 'file'"),
    ],
)
def test_wrong_options_are_mistakes_of_the_command_line(
    given_options: dict[str, Any], seen: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=seen):
        made(tmp_path, **given_options)


def test_what_is_there_and_has_no_place_any_more_is_a_removal(tmp_path: Path) -> None:
    from meshpki.provision.journal import History, Made

    old = Made("file.z", "directory.file", "file z", {"id": "file.z", "path": "files/z"}, (), True)
    kept = Made("file.a", "directory.file", "file a", {"id": "file.a", "path": "files/a"}, (), True)
    plugins = plugin_set()
    found = facts.detect(plugins, NAME, tmp_path, {})
    plan = plans.make_plan(plugins, found, tmp_path, history=History(made=(kept, old)))
    assert plan.removals == (Removal("file.z", "directory.file", "file z"),)
    assert plan.digest != made(tmp_path).digest
    assert plans.from_json(plans.to_json(plan)) == plan
