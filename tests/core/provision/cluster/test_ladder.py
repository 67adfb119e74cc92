"""What a ladder comes to for the engine: stable, complete, and never lower because of an outage."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki import records
from meshpki.errors import UnavailableError
from meshpki.hooks import Mode
from meshpki.provision.cluster.climb import climb
from meshpki.provision.cluster.ladder import Ladder, Standing, detection
from meshpki.provision.cluster.question import Question
from meshpki.provision.cluster.verdict import Answer, Reason, Rung, Verdict
from meshpki_cli.documents import as_json
from support.fake_cluster import FOUNDING, FakeCluster, away, failure

RUNGS = tuple(rung for rung in Rung if rung is not Rung.CANARY)


def ladder(**answers: Answer) -> Ladder:
    """All yes, but for what is said otherwise."""
    changed = {name.replace("_", "-"): answer for name, answer in answers.items()}
    rungs = (*RUNGS, Rung.CANARY) if "canary" in changed else RUNGS
    verdicts = tuple(
        Verdict(rung, changed.get(rung.value, Answer.YES), Reason.SERVED, f"saw {rung}", f"mend {rung}")
        for rung in rungs
    )
    return Ladder(verdicts, "v1.37.2", "kubernetes", "1.37", "", "https://cluster.test")


YES, NO, UNKNOWN, DANGER, NOT_ASKED = Answer.YES, Answer.NO, Answer.UNKNOWN, Answer.DANGER, Answer.NOT_ASKED
SIDE_ISSUES = dict.fromkeys(("certificates", "issuer", "permissions", "token_request"), NO)


@pytest.mark.parametrize(
    ("answers", "modes", "standing", "lift"),
    [
        ({}, "pod-certificate sds file-mount", Standing.PROVEN, []),
        ({"certificates": NO}, "sds file-mount", Standing.PROVEN, ["certificates"]),
        ({"certificates": UNKNOWN}, "sds file-mount", Standing.PROVEN, ["certificates"]),
        ({"certificates": NO, "version": UNKNOWN}, "sds file-mount", Standing.PROVEN, ["certificates"]),
        ({"certificates": NO, "version": NO}, "file-mount", Standing.FILE_MOUNT_ONLY, ["version"]),
        ({"certificates": NO, "token": NO, "review": NOT_ASKED}, "file-mount", Standing.FILE_MOUNT_ONLY, ["token"]),
        ({"certificates": NO, "token": UNKNOWN, "review": NO}, "file-mount", Standing.FILE_MOUNT_ONLY, ["review"]),
        ({"certificates": NO, "token": UNKNOWN, "review": NOT_ASKED}, "file-mount", Standing.UNKNOWN, ["token"]),
        ({"certificates": NO, "token": UNKNOWN, "permissions": NO}, "file-mount", Standing.UNKNOWN, ["permissions"]),
        ({"certificates": NO, "token": NO, "permissions": NO}, "file-mount", Standing.FILE_MOUNT_ONLY, ["token"]),
        ({"certificates": NO, "api_server": UNKNOWN}, "file-mount", Standing.UNKNOWN, ["api-server"]),
        ({"certificates": NO, "canary": NO}, "file-mount", Standing.FILE_MOUNT_ONLY, ["canary"]),
        ({"certificates": NO, "canary": UNKNOWN}, "sds file-mount", Standing.PROVEN, ["certificates"]),
        (SIDE_ISSUES, "sds file-mount", Standing.PROVEN, ["certificates"]),
        ({"token": NO}, "pod-certificate file-mount", Standing.PROVEN, []),
        ({"token": UNKNOWN, "review": NOT_ASKED}, "pod-certificate file-mount", Standing.UNKNOWN, ["token"]),
        ({"token": UNKNOWN, "permissions": NO}, "pod-certificate file-mount", Standing.UNKNOWN, ["permissions"]),
        ({"api_server": UNKNOWN}, "pod-certificate file-mount", Standing.UNKNOWN, ["api-server"]),
        ({"token": NO, "certificates": UNKNOWN}, "file-mount", Standing.UNKNOWN, ["certificates"]),
        ({"api_server": DANGER}, "pod-certificate file-mount", Standing.DANGER, ["api-server"]),
        ({"api_server": DANGER, "version": NO}, "pod-certificate file-mount", Standing.DANGER, ["api-server"]),
    ],
)  # fmt: skip
def test_modes(answers: dict[str, Answer], modes: str, standing: Standing, lift: list[str]) -> None:
    found = ladder(**answers)
    assert " ".join(found.modes) == modes
    assert found.standing is standing
    assert [step.todo for step in found.lift] == [f"mend {rung}" for rung in lift]


PROVEN_OR_NOT = st.sampled_from((YES, NO, UNKNOWN))


@settings(deadline=None)
@given(st.fixed_dictionaries({**dict.fromkeys(("token", "review", "api_server"), st.sampled_from(Answer)),
                              **dict.fromkeys(("version", "certificates", "permissions"), PROVEN_OR_NOT)}))  # fmt: skip
def test_the_command_calls_nothing_settled_that_the_hook_calls_open(answers: dict[str, Answer]) -> None:
    found = ladder(**answers)
    try:
        answer = detection(found)
    except UnavailableError:
        settled = {YES: Standing.PROVEN, DANGER: Standing.DANGER}  # of sds, whatever is above it
        assert found.standing is settled.get(found.sds, Standing.UNKNOWN)
    else:
        assert found.standing is not Standing.UNKNOWN
        if found.standing is not Standing.DANGER:
            assert (answer.modes == (Mode.FILE_MOUNT,)) is (found.standing is Standing.FILE_MOUNT_ONLY)


def test_a_rung_that_was_not_asked_for_is_not_there() -> None:
    with pytest.raises(KeyError):
        ladder()[Rung.CANARY]


def test_a_detection_is_one_that_the_engine_takes() -> None:
    found = climb(FakeCluster(), Question())
    answer = detection(found, node_versions=("v1.37.1", "v1.37.2"))
    assert records.check_detection(answer) == answer
    assert answer.modes == (Mode.POD_CERTIFICATE, Mode.SDS, Mode.FILE_MOUNT)
    assert (answer.version, answer.distribution, answer.emulated_version) == ("v1.37.2", "kubernetes", "")
    assert answer.node_versions == ("v1.37.1", "v1.37.2")
    assert len(answer.evidence) == len(found.verdicts)
    assert answer.facts["issuer"] == "https://cluster.test"
    assert answer.facts["ca-policies"] == ("hybrid", "tokenreview", "jwks")
    assert detection(found, distribution="acme").distribution == "acme"


def test_a_detection_is_the_same_every_time() -> None:
    def once() -> str:
        return json.dumps(dataclasses.asdict(detection(climb(FakeCluster(), Question()))))

    assert once() == once()


def test_a_no_is_a_detection_with_its_reasons() -> None:
    cluster = FakeCluster(version=FOUNDING, token_requests=False, published=False, certificate_kinds={})
    answer = detection(climb(cluster, Question()))
    assert answer.modes == (Mode.FILE_MOUNT,)
    said = {item.question: item.answer for item in answer.evidence}
    assert said["Does it issue a token for the mesh alone?"].startswith("no: TokenRequest is off")


@pytest.mark.parametrize(
    ("scripted", "named"),
    [
        ({"POST /api/v1/namespaces/default/serviceaccounts/meshpki-detect/token": failure(403)}, "token"),
        ({"POST /apis/authentication.k8s.io/v1/tokenreviews": away()}, "confirm"),
        ({"GET /apis/certificates.k8s.io/v1": failure(503)}, "certificates by themselves"),
    ],
)
def test_what_could_not_be_told_lowers_nothing(scripted: dict[str, object], named: str) -> None:
    found = climb(FakeCluster(scripted=scripted), Question())  # type: ignore[arg-type]  # a subset of its values
    with pytest.raises(UnavailableError, match=named) as told:
        detection(found)
    assert told.value.todo
    assert told.value.evidence


def test_a_danger_leaves_sds_out() -> None:
    answer = detection(climb(FakeCluster(api_audiences=("istio-ca",)), Question()))
    assert answer.modes == (Mode.POD_CERTIFICATE, Mode.FILE_MOUNT)
    assert any("danger: A MESH TOKEN OPENS" in item.answer for item in answer.evidence)


def test_the_document_has_the_same_names_every_time() -> None:
    away_at_one = FakeCluster(scripted={"GET /api/v1": away()})
    well, ill = (json.loads(as_json(climb(cluster, Question()))) for cluster in (FakeCluster(), away_at_one))
    assert list(well) == list(ill)
    assert [rung["rung"] for rung in well["verdicts"]] == [rung["rung"] for rung in ill["verdicts"]]
    assert {tuple(rung) for rung in (*well["verdicts"], *ill["verdicts"])} == {
        ("rung", "answer", "reason", "seen", "todo", "evidence")
    }
    seen = {tuple(one) for rung in (*well["verdicts"], *ill["verdicts"]) for one in rung["evidence"]}
    assert seen == {("request", "status", "outcome", "message", "about", "found")}
