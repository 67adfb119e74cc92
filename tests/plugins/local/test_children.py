"""The supervisor's decisions, by table and over random histories."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki_local import children as pure
from meshpki_local.children import Child, ChildSpec, Kill, Phase, Start, Terminate, World
from meshpki_local.processes import Found, ProcessRef

NOW = 1000.0
CA = ChildSpec("ca", ("ca",), "f-ca", 0)
AGENT = ChildSpec("agent-a", ("agent",), "f-agent", 1)
READY = frozenset({0})


def child(spec: ChildSpec, phase: Phase = Phase.RUNNING, **changes: Any) -> Child:
    ref = None if phase is Phase.WAITING else ProcessRef(100, 5)
    made = Child(spec.name, spec.fingerprint, spec.rank, phase, ref, NOW - 100)
    return replace(made, **changes)  # Any: fields by name


def world(*children: Child, wanted: tuple[ChildSpec, ...] = (CA, AGENT), **changes: Any) -> World:
    made = World(wanted, {one.name: one for one in children}, NOW, READY, since=NOW - 1)
    return replace(made, **changes)  # Any: fields by name


OLD_CA, OLD_AGENT = child(CA, fingerprint="old"), child(AGENT, fingerprint="old")
STOPPING_CA = child(CA, Phase.STOPPING, due=NOW + 1)
WAITING = child(AGENT, Phase.WAITING, due=NOW + 5, failures=3)

TABLE = {
    "nothing runs, the CA not ready: the CA first": (world(ready=frozenset()), [Start(CA)]),
    "nothing runs for long: the agents start anyway": (
        world(ready=frozenset(), since=NOW - pure.HOLD_SECONDS),
        [Start(CA), Start(AGENT)],
    ),
    "the CA is ready: the agent starts": (world(child(CA)), [Start(AGENT)]),
    "all as wanted": (world(child(CA), child(AGENT)), []),
    "an adopted agent needs no ready CA": (world(child(CA), child(AGENT), ready=frozenset()), []),
    "not wanted any more": (world(child(CA), child(AGENT), wanted=(CA,)), [Terminate(child(AGENT))]),
    "changed: only what changed ends": (world(child(CA), OLD_AGENT), [Terminate(OLD_AGENT)]),
    "changed both: both end": (world(OLD_CA, OLD_AGENT), [Terminate(OLD_AGENT), Terminate(OLD_CA)]),
    "changed and ending: patience": (world(STOPPING_CA, child(AGENT)), []),
    "ending too long: killed": (
        world(replace(STOPPING_CA, due=NOW), child(AGENT)),
        [Kill(replace(STOPPING_CA, due=NOW))],
    ),
    "failed: not before its time": (world(child(CA), WAITING), []),
    "failed: at its time": (world(child(CA), replace(WAITING, due=NOW)), [Start(AGENT)]),
    "failed, and now another configuration: at once": (
        world(child(CA), replace(WAITING, fingerprint="old")),
        [Start(AGENT)],
    ),
    "failed and not wanted any more: nothing": (world(child(CA), WAITING, wanted=(CA,)), []),
    "shutdown: agents first": (world(child(CA), child(AGENT), shutdown=True), [Terminate(child(AGENT))]),
    "shutdown: the CA waits for an agent that ends": (
        world(child(CA), child(AGENT, Phase.STOPPING, due=NOW + 1), shutdown=True),
        [],
    ),
    "shutdown: an agent that failed is no agent": (world(child(CA), WAITING, shutdown=True), [Terminate(child(CA))]),
    "shutdown: then the CA": (world(child(CA), shutdown=True), [Terminate(child(CA))]),
    "shutdown: nothing is started": (world(shutdown=True), []),
}


@pytest.mark.parametrize("name", TABLE)
def test_decisions(name: str) -> None:
    given_world, actions = TABLE[name]
    assert pure.decide(given_world) == actions


@pytest.mark.parametrize(("failures", "seconds"), [(1, 0.25), (2, 0.5), (3, 1.0), (7, 16.0), (8, 30.0), (1000, 30.0)])
def test_the_delay_doubles_up_to_its_cap(failures: int, seconds: float) -> None:
    assert pure.delay(failures) == seconds


def test_a_child_that_dies_at_once_is_started_ever_later() -> None:
    one = child(AGENT, since=NOW)
    dues = []
    for _ in range(10):
        waiting = pure.ended(one, one.since + 0.1, "exit status 1")
        assert waiting is not None
        dues.append(waiting.due - waiting.since)
        one = pure.started(AGENT, waiting, ProcessRef(7, 7), waiting.due)
    assert dues == sorted(dues)
    assert dues[0] == 0.25
    assert dues[-1] == 30.0
    assert one.restarts == 10
    assert one.reason == "exit status 1"


def test_a_stable_run_forgives_earlier_failures() -> None:
    waiting = pure.ended(child(AGENT, failures=6, since=NOW), NOW + pure.STABLE_SECONDS, "killed by SIGKILL")
    assert waiting is not None
    assert waiting.failures == 1


def test_a_new_configuration_forgives_earlier_failures() -> None:
    assert pure.started(replace(AGENT, fingerprint="new"), WAITING, ProcessRef(7, 7), NOW).failures == 0
    assert pure.started(AGENT, WAITING, ProcessRef(7, 7), NOW).failures == 3


def test_a_child_that_was_asked_to_end_is_forgotten() -> None:
    assert pure.ended(pure.terminating(child(AGENT), NOW), NOW + 1, "exit status 0") is None


def test_a_child_that_cannot_be_started_waits_like_one_that_died() -> None:
    first = pure.failed_to_start(AGENT, None, NOW, "no memory")
    second = pure.failed_to_start(AGENT, first, first.due, "no memory")
    assert (first.phase, first.ref, first.due) == (Phase.WAITING, None, NOW + 0.25)
    assert second.due - first.due == 0.5


def test_adoption_takes_what_fits_then_the_older_and_ends_the_rest() -> None:
    found = [
        Found(ProcessRef(1, 10), "ca", "old", 50.0),
        Found(ProcessRef(2, 20), "ca", "f-ca", 40.0),
        Found(ProcessRef(3, 30), "ca", "f-ca", 30.0),
        Found(ProcessRef(4, 40), "agent-gone", "f", 20.0),
    ]
    adoption = pure.adopt(found, (CA, AGENT), {"ca": 4}, NOW)
    assert {name: one.ref and one.ref.pid for name, one in adoption.children.items()} == {"ca": 2, "agent-gone": 4}
    assert adoption.children["ca"].restarts == 4
    assert adoption.children["ca"].since == NOW - 40
    assert {ref.pid for ref in adoption.surplus} == {1, 3}
    after = World((CA, AGENT), adoption.children, NOW, READY)
    assert pure.decide(after) == [Terminate(adoption.children["agent-gone"]), Start(AGENT)]


def test_next_moment() -> None:
    assert pure.next_moment(world(child(CA), child(AGENT))) is None
    assert pure.next_moment(world(child(CA), WAITING)) == NOW + 5
    assert pure.next_moment(world(child(CA))) == NOW - 1 + pure.HOLD_SECONDS


SPECS = st.lists(
    st.builds(ChildSpec, st.sampled_from("abcd"), st.just(("x",)), st.sampled_from("12"), st.sampled_from([0, 1])),
    unique_by=lambda spec: spec.name,
    max_size=4,
)
EVENTS = st.lists(st.tuples(st.floats(0.01, 20), st.sampled_from("abcd"), SPECS | st.none()), max_size=25)


@given(SPECS, EVENTS)
def test_whatever_happens_what_is_wanted_ends_up_running_and_nothing_else(
    specs: list[ChildSpec], events: list[tuple[float, str, list[ChildSpec] | None]]
) -> None:
    """A simulated machine: children die at random, wishes change; then it is left alone."""
    machine: dict[str, Child] = {}
    now, pid, wanted = 0.0, 0, tuple(specs)

    def settle() -> None:
        nonlocal pid
        ready = frozenset(one.rank for one in machine.values() if one.phase is Phase.RUNNING)
        for action in pure.decide(World(wanted, machine, now, ready, since=0.0)):
            match action:
                case Start(spec):
                    previous = machine.get(spec.name)
                    assert previous is None or previous.phase is Phase.WAITING, "started over a live one"
                    pid += 1
                    machine[spec.name] = pure.started(spec, previous, ProcessRef(pid, pid), now)
                case Terminate(one):
                    machine[one.name] = pure.terminating(one, now)
                case Kill(one):
                    end(one.name)

    def end(name: str) -> None:
        after = pure.ended(machine.pop(name), now, "")
        if after is not None:
            machine[name] = after

    for seconds, name, wish in [*events, *[(31.0, "", None)] * 4]:
        now += seconds
        wanted = wanted if wish is None else tuple(wish)
        if name in machine and machine[name].phase is not Phase.WAITING:
            end(name)
        settle()
    running = {one.name: one.fingerprint for one in machine.values() if one.phase is Phase.RUNNING}
    assert running == {spec.name: spec.fingerprint for spec in wanted}
    assert not [one for one in machine.values() if one.phase is Phase.STOPPING]
