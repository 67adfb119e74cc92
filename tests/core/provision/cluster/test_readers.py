"""What is read out of single answers, and what of them is not believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.provision.cluster import discovery, evidence, permission, review, token
from meshpki.provision.cluster.asking import Asking
from meshpki.provision.cluster.climb import climb
from meshpki.provision.cluster.evidence import MAX_MESSAGE, Outcome, record, shown
from meshpki.provision.cluster.question import Question
from meshpki.provision.cluster.verdict import Answer, Reason, Rung
from support.fake_cluster import FakeCluster, answer, away, failure
from support.tokens import TokenMaker, b64url, compact

LISTED = {
    "name": "serviceaccounts/token",
    "group": "authentication.k8s.io",
    "kind": "TokenRequest",
    "verbs": ["create"],
}


def listing(*resources: object) -> dict[str, object]:
    return {"kind": "APIResourceList", "resources": [{"name": "serviceaccounts"}, *resources]}


@pytest.mark.parametrize(
    ("resource", "served"),
    [
        (LISTED, True),
        ({**LISTED, "verbs": ["get"]}, False),
        ({**LISTED, "verbs": "create"}, False),
        ({**LISTED, "kind": "Scale"}, False),
        ({**LISTED, "group": ""}, False),
        ({**LISTED, "name": "pods/token"}, False),
        ("serviceaccounts/token", False),
    ],
)
def test_token_request_is_what_it_says_in_all_it_says(resource: object, served: bool) -> None:
    assert discovery.read(listing(resource)) == discovery.CoreResources(served)


@pytest.mark.parametrize("members", [{}, {"kind": "APIResourceList"}, {**listing(LISTED), "kind": "Status"}])
def test_a_list_without_service_accounts_is_no_answer(members: dict[str, object]) -> None:
    assert discovery.read(members) is None


@pytest.mark.parametrize(
    ("status", "allowed"),
    [
        ({"allowed": True}, True),
        ({"allowed": False}, False),
        ({"allowed": True, "denied": True}, False),
        ({"allowed": "true"}, None),
        ({}, None),
    ],
)
def test_a_right_is_granted_by_a_plain_yes(status: dict[str, object], allowed: bool | None) -> None:
    found = permission.read({"status": status}, permission.TOKEN_REVIEW)
    assert (None if found is None else found.allowed) is allowed


@pytest.mark.parametrize("algorithm", ["HS256", "none", "", "RS1"])
def test_a_token_by_an_algorithm_that_the_ca_does_not_take_is_a_no(algorithm: str) -> None:
    cluster = FakeCluster()

    def mint(body: object) -> object:
        assert isinstance(body, dict)
        claims = TokenMaker().claims(
            now=1_800_000_000, name="meshpki-detect", lifetime=600, audience=tuple(body["spec"]["audiences"])
        )
        text = b".".join((b64url(compact({"alg": algorithm, "kid": "k"})), b64url(compact(claims)), b"c2lnbmF0dXJl"))
        cluster.tokens[text.decode()] = claims
        return answer(201, {"status": {"token": text.decode()}})

    path = "POST /api/v1/namespaces/default/serviceaccounts/meshpki-detect/token"
    cluster.scripted[path] = mint  # type: ignore[assignment]  # it answers as it should
    verdict = climb(cluster, Question())[Rung.TOKEN]
    assert (verdict.answer, verdict.reason) == (Answer.NO, Reason.ALGORITHM_NOT_ALLOWED)


def test_a_review_that_says_both_is_a_refusal() -> None:
    found = review.read(
        {"kind": "TokenReview", "status": {"authenticated": True, "audiences": [token.FOREIGN], "error": "but"}}
    )
    may_remove = evidence.Exchange("POST x", 201, Outcome.DONE, found=permission.Granted(permission.TOKEN_REVIEW, True))
    asked = token.Asked("default", ("istio-ca", token.FOREIGN), None, None, may_remove)
    seen = evidence.Exchange("POST x", 201, Outcome.DONE, found=found)
    assert review.judge(seen, asked).reason is Reason.NOT_AUTHENTICATED


@pytest.mark.parametrize(
    ("error", "audiences"),
    [
        ('audiences ["istio-ca"] is invalid for the target audiences ["https://a" "b"]]', ("https://a", "b")),
        ('audiences ["x"] is invalid for the target audiences []]', ()),
        ("invalid bearer token", ()),
        ("", ()),
    ],
)
def test_a_refusal_names_the_api_servers_audiences(error: str, audiences: tuple[str, ...]) -> None:
    assert review.ReviewSeen(False, error=error).api_audiences == audiences


@pytest.mark.parametrize(
    ("status", "outcome", "of_anybody"),
    [
        (201, Outcome.DONE, Outcome.DONE),
        (302, Outcome.INVALID, Outcome.UNREADABLE),
        (400, Outcome.INVALID, Outcome.UNREADABLE),
        (401, Outcome.UNAUTHORIZED, Outcome.UNAUTHORIZED),
        (403, Outcome.FORBIDDEN, Outcome.UNREADABLE),
        (404, Outcome.NOT_FOUND, Outcome.UNREADABLE),
        (409, Outcome.CONFLICT, Outcome.UNREADABLE),
        (422, Outcome.INVALID, Outcome.UNREADABLE),
        (429, Outcome.THROTTLED, Outcome.THROTTLED),
        (500, Outcome.SERVER_ERROR, Outcome.SERVER_ERROR),
        (504, Outcome.SERVER_ERROR, Outcome.SERVER_ERROR),
    ],
)
def test_a_status_is_an_outcome(status: int, outcome: Outcome, of_anybody: Outcome) -> None:
    """Of an API server, which explains it by a Status; of anybody else it may be about anything."""
    body = {"kind": "Status", "message": "why", "details": {"kind": "pods", "name": "a"}}
    seen = record("GET x", answer(status, body), lambda _: 1)
    assert (seen.status, seen.outcome) == (status, outcome)
    if outcome is not Outcome.DONE:
        assert (seen.message, seen.about, seen.found) == ("why", "pods a", None)
    for other in (b"<html>", b"", json.dumps({**body, "kind": "Page"}).encode()):
        seen = record("GET x", answer(status, other), lambda members: 1 if members else None)
        assert seen.outcome is (Outcome.UNREADABLE if status == 201 and other in {b"<html>", b""} else of_anybody)


def test_a_foreign_text_is_one_printable_line_without_secrets() -> None:
    secret = TokenMaker().token().decode()
    text = shown(f"a\x1b[31m\n\tb {secret} -----BEGIN PRIVATE KEY-----x-----END PRIVATE KEY----- " + "c" * 999)
    assert text.isprintable()
    assert len(text) == MAX_MESSAGE
    assert secret[:20] not in text
    assert "PRIVATE" not in text
    assert text.startswith("a?[31m b [redacted] [redacted]")


@given(st.binary(max_size=300), st.sampled_from([200, 201, 302, 403, 404, 500]))
def test_any_body_is_recorded_in_few_words(body: bytes, status: int) -> None:
    seen = record("GET x", answer(status, body), lambda members: members.get("n"))
    assert len(seen.message) <= MAX_MESSAGE
    assert seen.message.isprintable()
    json.dumps(seen.message)


def test_what_is_hidden_is_in_no_record() -> None:
    cluster = FakeCluster(scripted={"GET /x": failure(500, "about hidden-words"), "GET /y": away("no hidden-words")})
    asking = Asking(cluster)
    asking.hide("hidden-words", "[words]")
    assert asking.get("/x", lambda _: 1).message == "about [words]"
    assert asking.get("/y", lambda _: 1).message == "no [words]"
    cluster.scripted["GET /x"] = answer(200, {"said": "hidden-words"})
    assert asking.get("/x", lambda members: members["said"]).found == "[words]"


def test_a_token_of_another_shape_is_not_quoted_either() -> None:
    path = "POST /api/v1/namespaces/default/serviceaccounts/meshpki-detect/token"
    cluster = FakeCluster(scripted={path: answer(201, b'"an-opaque-credential')})
    found = climb(cluster, Question())
    assert found[Rung.TOKEN].reason is Reason.UNREADABLE
    assert "opaque" not in repr(found)


def test_what_is_no_json_shows_how_it_begins_and_no_more() -> None:
    page = b"<html><title>Sign in to Corp</title>" + b"x" * 500
    assert record("GET x", failure(502), lambda _: 1).message == "it failed"
    seen = record("GET x", answer(200, page), lambda _: 1)
    assert seen.message == "no JSON, 536 bytes, begins with '<html><title>Sign in to Corp</title>xxxx'"


@pytest.mark.parametrize(
    "claims",
    [{"exp": "soon"}, {"exp": True}, {"iat": None}, {"iat": 1.5}],
)
def test_a_token_without_whole_times_is_none(claims: dict[str, object]) -> None:
    with pytest.raises(InvalidValueError):
        token.read(TokenMaker().token(**claims).decode(), uid="u", stand_ins={})


def test_of_a_token_names_of_claims_are_kept_and_no_value_that_is_its_own() -> None:
    maker = TokenMaker()
    seen = token.read(maker.token().decode(), uid="5a4b3c2d-1e0f-4a9b-8c7d-6e5f4a3b2c1d", stand_ins={"istio-ca": "A"})
    assert seen.account_bound
    assert seen.audiences == ("A",)
    assert seen.has_id
    assert {"aud", "exp", "jti", "kubernetes.io/pod", "kubernetes.io/node"} <= set(seen.claims)
    assert "c2b1a0f9" not in repr(seen)
    assert not token.read(maker.token().decode(), uid="other", stand_ins={}).account_bound
