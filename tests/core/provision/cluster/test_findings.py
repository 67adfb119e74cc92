"""What a platform can add to a ladder, and what not, whatever it says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import PluginError, UsageError
from meshpki.hooks import Evidence, Mode
from meshpki.provision.cluster.climb import climb
from meshpki.provision.cluster.findings import Findings, addition
from meshpki.provision.cluster.ladder import Ladder, Standing, detection
from meshpki.provision.cluster.question import Question
from support.fake_cluster import FOUNDING, FakeCluster

OWN = Evidence("where is it?", "on the moon", "a look")
MODERN = climb(FakeCluster(), Question())
CLUSTERS = {
    "all": MODERN,
    "sds": climb(FakeCluster(certificate_kinds={}), Question()),
    "neither": climb(
        FakeCluster(version=FOUNDING, token_requests=False, published=False, certificate_kinds={}), Question()
    ),
    "danger": climb(FakeCluster(api_audiences=("istio-ca",)), Question()),
}


def with_modes(ladder: Ladder, modes: tuple[Mode, ...]) -> Findings:
    seen = detection(ladder)
    answer = replace(seen, modes=modes, evidence=(*seen.evidence, OWN))
    return Findings(ladder, addition("acme", "acme 1.0", seen, answer))


def test_its_own_evidence_is_told_apart() -> None:
    found = with_modes(MODERN, MODERN.modes)
    assert found.addition is not None
    assert found.addition.evidence == (OWN,)
    assert len(found.addition.detection.evidence) == len(MODERN.verdicts) + 1


def test_evidence_that_is_missing_is_of_another_world() -> None:
    seen = detection(MODERN)
    for kept in ((), seen.evidence[1:], (OWN,)):
        with pytest.raises(UsageError, match="does not add to what was found"):
            addition("acme", "acme 1.0", seen, replace(seen, evidence=kept))


@pytest.mark.parametrize("kind", CLUSTERS)
@settings(deadline=None)
@given(modes=st.sets(st.sampled_from(Mode)).map(lambda modes: tuple(mode for mode in Mode if mode in modes)))
def test_a_platform_lifts_nothing(kind: str, modes: tuple[Mode, ...]) -> None:
    ladder = CLUSTERS[kind]
    if set(modes) - set(ladder.modes):
        with pytest.raises(PluginError, match="which the cluster does not prove"):
            with_modes(ladder, modes)
        return
    found = with_modes(ladder, modes)
    assert found.modes == modes
    order = [Standing.PROVEN, Standing.FILE_MOUNT_ONLY, Standing.UNKNOWN, Standing.DANGER]
    assert order.index(found.standing) >= order.index(ladder.standing)
    assert set(found.policies) <= set(ladder.policies)
    assert bool(found.policies) is (Mode.SDS in modes)
    assert (found.standing is Standing.PROVEN) is (bool({*modes} - {Mode.FILE_MOUNT}) and kind in {"all", "sds"})


def test_without_a_platform_it_is_the_ladder() -> None:
    found = Findings(MODERN)
    assert (found.modes, found.standing, found.policies) == (MODERN.modes, MODERN.standing, MODERN.policies)
    assert (found.sds, found.lift, found.left_out) == (MODERN.sds, MODERN.lift, ())
