"""The round as data: its order makes sense."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshpki.identity import TrustDomain
from meshpki.provision.proof.question import Question
from meshpki.provision.proof.steps import CLEAN, ORDER, STEPS, Act, Step, Thing

QUESTION = Question(TrustDomain("mesh.local"), namespace="probes", audience="mesh")


def test_every_act_is_done_once() -> None:
    assert sorted(step.act for step in ORDER) == sorted(Act)


@pytest.mark.parametrize("step", ORDER, ids=lambda step: step.act)
def test_what_a_step_needs_can_be_there_by_then(step: Step) -> None:
    before = {Thing.CA, Thing.OTHER, Thing.TOKEN} | {one.gives for one in ORDER[: ORDER.index(step)]}
    assert set(step.needs) <= before


def test_nothing_that_needs_the_pod_comes_after_it_is_gone() -> None:
    assert ORDER[-1].act is Act.POD_GONE


def test_the_ca_is_asked_for_nothing_and_garbage_whatever_happened_before() -> None:
    assert {step.act for step in ORDER if not step.lacks({Thing.CA})} == {Act.STAND, Act.NO_TOKEN, Act.GARBAGE}


@pytest.mark.parametrize(
    ("act", "have", "why"),
    [
        (Act.MINT, set(), "there is no probe account and pod"),
        (Act.MINT, {Thing.PROBE}, ""),
        (Act.KNOCK, {Thing.PROBE, Thing.TOKEN}, "there is no confirmed token"),
        (Act.OTHER_CLUSTER, set(), "there is no other cluster (--other-context)"),
        (Act.POD_GONE, {Thing.TOKEN, Thing.CA}, "there is no certificate for a good token"),
        (Act.GARBAGE, set(), "there is no answer from the CA"),
    ],
)
def test_what_is_missing_is_named(act: Act, have: set[Thing], why: str) -> None:
    (step,) = (step for step in ORDER if step.act is act)
    assert step.lacks(have) == why


def test_titles_name_what_is_at_stake_and_no_two_are_the_same() -> None:
    titles = [step.title(QUESTION) for step in ORDER]
    assert titles[0] == "the probe probes/meshpki-verify stands"
    assert titles[1] == "TokenRequest: a token for mesh, bound to a pod"
    assert len({*titles, CLEAN}) == STEPS
    trusting = [step.title(replace(QUESTION, other_trusted=True)) for step in ORDER]
    assert set(trusting) - set(titles) == {"the other cluster's token gets one, too"}
