from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.provision.cluster import version
from meshpki.provision.cluster.evidence import record
from meshpki.provision.cluster.verdict import Answer, Reason
from meshpki.provision.cluster.version import Release, VersionSeen
from support.fake_cluster import FOUNDING, MODERN, answer


@pytest.mark.parametrize(
    ("git_version", "release", "distribution"),
    [
        ("v1.33.4-gke.1036000", Release(1, 33), "gke"),
        ("v1.24.3+k3s1", Release(1, 24), "k3s"),
        ("v1.30.4+rke2r1", Release(1, 30), "rke2"),
        ("v1.31.2-eks-7f9249a", Release(1, 31), "eks"),
        ("v1.18.8-aliyun.1", Release(1, 18), "ack"),
        ("v1.22.5-tke.3", Release(1, 22), "tke"),
        ("v1.27.5+vmware.1-fips.1", Release(1, 27), "tkg"),
        ("v1.13.0", Release(1, 13), "kubernetes"),
        ("1.13.0", Release(1, 13), "kubernetes"),
        ("v1.37.0-beta.0", Release(1, 37), "kubernetes"),
        ("v2.0.0", Release(2, 0), "kubernetes"),
        ("v1.29", Release(1, 29), "kubernetes"),
    ],
)
def test_a_vendors_suffix_hides_nothing(git_version: str, release: Release, distribution: str) -> None:
    seen = version.read({"gitVersion": git_version, "major": "", "minor": ""})
    assert seen is not None
    assert (seen.release, version.distribution(git_version)) == (release, distribution)


@pytest.mark.parametrize(("major", "minor"), [("1", "21+"), ("1", "21"), ("1+", "21-something")])
def test_without_a_git_version_major_and_minor_tell(major: str, minor: str) -> None:
    seen = version.read({"major": major, "minor": minor})
    assert seen is not None
    assert seen.release == Release(1, 21)


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"gitVersion": "unknown"},
        {"gitVersion": 1, "major": 1, "minor": 37},
        {"gitVersion": "v1.2.3.4"},
        {"major": "1"},
    ],
    ids=str,
)
def test_no_release_is_no_answer(members: dict[str, object]) -> None:
    seen = record("GET /version", answer(200, members), version.read)
    verdict = version.judge(seen)
    assert (verdict.answer, verdict.reason) == (Answer.UNKNOWN, Reason.UNREADABLE)


def test_the_emulated_release_is_the_one_whose_features_there_are() -> None:
    seen = record("GET /version", answer(200, {**MODERN, "emulationMinor": "36"}), version.read)
    assert seen.found is not None
    assert (seen.found.release, seen.found.features) == (Release(1, 37), Release(1, 36))
    verdict = version.judge(seen)
    assert (verdict.answer, verdict.reason) == (Answer.YES, Reason.EMULATED)
    assert verdict.seen == "v1.37.2, which emulates 1.36"


def test_a_release_that_emulates_itself_emulates_nothing() -> None:
    seen = record("GET /version", answer(200, MODERN), version.read)
    assert seen.found == VersionSeen("v1.37.2", "1", "37")
    assert version.judge(seen).reason is Reason.NEW_ENOUGH


@pytest.mark.parametrize("git_version", ["v1.12.10", "v1.12.8-gke.10", "v1.9.0", "v0.21.4"])
def test_before_1_13_sds_is_refused_and_the_ways_out_are_told(git_version: str) -> None:
    verdict = version.judge(record("GET /version", answer(200, {"gitVersion": git_version}), version.read))
    assert (verdict.answer, verdict.reason) == (Answer.NO, Reason.TOO_OLD)
    assert "could only be the API server itself" in verdict.seen
    assert "upgrade" in verdict.todo
    assert "--fallback file-mount" in verdict.todo
    assert ("on premises" in verdict.todo) is ("gke" not in git_version)


def test_1_13_is_enough() -> None:
    assert version.judge(record("GET /version", answer(200, FOUNDING), version.read)).good


@given(st.integers(0, 60), st.integers(0, 99), st.sampled_from("-+."), st.text(max_size=30))
def test_any_suffix_leaves_the_release_as_it_is(minor: int, patch: int, joint: str, suffix: str) -> None:
    seen = version.read({"gitVersion": f"v1.{minor}.{patch}" + ("" if joint == "." else joint + suffix)})
    assert seen is not None
    assert seen.release == Release(1, minor)


@given(st.dictionaries(st.sampled_from(sorted(MODERN)), st.one_of(st.text(), st.integers(), st.none())))
def test_no_answer_breaks_it(members: dict[str, object]) -> None:
    seen = version.read(members)
    assert seen is None or seen.release is not None
