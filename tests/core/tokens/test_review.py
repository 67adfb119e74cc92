"""What is asked in a TokenReview, and what every kind of answer is worth."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshpki.errors import InvalidValueError
from meshpki.tokens.encoding import MAX_TOKEN_BYTES
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason
from meshpki.tokens.review import (
    MAX_ANSWER_BYTES,
    Cause,
    Confirmed,
    Refused,
    Unjudged,
    Verdict,
    read_review,
    read_self_check,
    request_body,
)
from support.reviews import EXTRA, caller_of, confirmed, refused, review, user_of
from support.tokens import TokenMaker

MAKER = TokenMaker()
POLICY = ClusterPolicy("c1", MAKER.issuer)
CALLER = caller_of(MAKER.token(), POLICY)
OURS = ("istio-ca",)
OLD = replace(CALLER, node=None, token_id=None)
USER = user_of(CALLER)
GROUPS = ["system:serviceaccounts", "system:serviceaccounts:default"]


def judged(body: bytes, status: int = 201) -> Verdict:
    return read_review(status, body, CALLER, OURS)


# --- the question --------------------------------------------------------------------------------------------------


def test_the_question() -> None:
    token = MAKER.token()
    assert request_body(token, ("istio-ca", "other")) == {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token.decode(), "audiences": ["istio-ca", "other"]},
    }


@pytest.mark.parametrize(
    ("token", "audiences"), [(b"a" * (MAX_TOKEN_BYTES + 1), OURS), (b"a", ()), (b"a", ("",)), (b"a", ("x", ""))]
)
def test_what_is_never_asked(token: bytes, audiences: tuple[str, ...]) -> None:
    with pytest.raises(InvalidValueError):
        request_body(token, audiences)


# --- good answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201])
def test_a_good_answer(status: int) -> None:
    assert judged(confirmed(CALLER), status) == Confirmed()


def test_an_answer_that_says_less() -> None:
    """1.13: pod, but neither node nor token ID; without a pod there is no extra at all."""
    pod = CALLER.pod
    assert pod is not None
    extra = {EXTRA + "pod-name": [pod.name], EXTRA + "pod-uid": [pod.uid]}
    assert judged(confirmed(CALLER, user={**USER, "extra": extra})) == Confirmed()
    bare = {name: value for name, value in USER.items() if name != "extra"}
    assert judged(confirmed(CALLER, user=bare)) == Confirmed()


def test_an_answer_that_says_more_than_the_claims() -> None:
    assert read_review(201, confirmed(CALLER), OLD, OURS) == Confirmed()


def test_one_of_our_audiences_is_enough() -> None:
    body = confirmed(CALLER, audiences=["other", "istio-ca"])
    assert read_review(201, body, CALLER, ("new", "istio-ca")) == Confirmed()


# --- answers about somebody else -----------------------------------------------------------------------------------


def extra(**changes: object) -> dict[str, object]:
    found = USER["extra"]
    assert isinstance(found, dict)
    return {**USER, "extra": {**found, **{EXTRA + name.replace("_", "-"): value for name, value in changes.items()}}}


@pytest.mark.parametrize(
    ("user", "what"),
    [
        (None, "user"),
        ("system:serviceaccount:default:web", "user"),
        ({}, "user name"),
        ({**USER, "username": "system:serviceaccount:default:api"}, "user name"),
        ({**USER, "username": "system:serviceaccount:kube-system:web"}, "user name"),
        ({**USER, "username": "system:serviceaccount:default:web:x"}, "user name"),
        ({**USER, "username": "system:serviceaccount:default:web "}, "user name"),
        ({**USER, "username": "system:serviceaccount:default"}, "user name"),
        ({**USER, "username": "system:node:default:web"}, "user name"),
        ({**USER, "username": "alice"}, "user name"),
        ({**USER, "username": None}, "user name"),
        ({**USER, "groups": None}, "groups"),
        ({**USER, "groups": []}, "groups"),
        ({**USER, "groups": GROUPS[:1]}, "groups"),
        ({**USER, "groups": GROUPS[1:]}, "groups"),
        ({**USER, "groups": ["system:serviceaccounts", "system:serviceaccounts:kube-system"]}, "groups"),
        ({**USER, "groups": "system:serviceaccounts system:serviceaccounts:default"}, "groups"),
        ({**USER, "groups": [*GROUPS[:1], 5, None, {}]}, "groups"),
        ({**USER, "uid": "another"}, "service account UID"),
        ({**USER, "uid": ""}, "service account UID"),
        ({name: value for name, value in USER.items() if name != "uid"}, "service account UID"),
        ({**USER, "extra": []}, "extra"),
        (extra(pod_name=["another"]), "pod-name"),
        (extra(pod_uid=["another"]), "pod-uid"),
        (extra(pod_uid=[]), "pod-uid"),
        (extra(pod_uid="0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e"), "pod-uid"),
        (extra(pod_uid=["0b0e4f3a-8f1e-4a57-9b6e-3d2c1b0a9f8e", "another"]), "pod-uid"),
        (extra(node_name=["node-b"]), "node-name"),
        (extra(node_uid=["another"]), "node-uid"),
        (extra(credential_id=["JTI=another"]), "credential-id"),
        (extra(credential_id=["c2b1a0f9-e8d7-4c6b-a5f4-e3d2c1b0a9f8"]), "credential-id"),
    ],
)
def test_an_answer_about_another(user: object, what: str) -> None:
    verdict = judged(confirmed(CALLER, user=user))
    assert isinstance(verdict, Refused)
    assert verdict.reason is TokenReason.REVIEW_MISMATCH
    assert verdict.seen.endswith(f": {what}")


@pytest.mark.parametrize("audiences", [None, [], ["other"], ["istio"], "istio-ca", {"istio-ca": 1}, [["istio-ca"]]])
def test_an_audience_that_is_not_confirmed(audiences: object) -> None:
    verdict = judged(confirmed(CALLER, audiences=audiences))
    assert isinstance(verdict, Refused)
    assert verdict.reason is TokenReason.AUDIENCE_NOT_CONFIRMED


# --- refusals ------------------------------------------------------------------------------------------------------

R = TokenReason
TEXTS = [
    # 1.13.0
    ("[invalid bearer token, Token has been invalidated]", R.POD_GONE),
    ("[invalid bearer token, Pod UID (8f50075e) does not match claim (8f4d4d35)]", R.POD_GONE),
    ('[invalid bearer token, serviceaccounts "web" not found]', R.ACCOUNT_GONE),
    ("[invalid bearer token, ServiceAccount UID (8f56) does not match claim (893d)]", R.ACCOUNT_RECREATED),
    ("[invalid bearer token, Token has expired]", R.EXPIRED),
    ("[invalid bearer token, square/go-jose: error in cryptographic primitive]", R.BAD_SIGNATURE),
    ("[invalid bearer token, invalid bearer token]", R.NOT_AUTHENTICATED),
    # 1.30.14 and 1.37.2
    ("[invalid bearer token, service account token has been invalidated]", R.POD_GONE),
    ("[invalid bearer token, pod UID (c2) does not match service account pod ref claim (45)]", R.POD_GONE),
    ("[invalid bearer token, node UID (c2) does not match service account node ref claim (45)]", R.NODE_GONE),
    ("[invalid bearer token, service account UID (f5) does not match claim (b6)]", R.ACCOUNT_RECREATED),
    ("[invalid bearer token, service account token has expired]", R.EXPIRED),
    ("[invalid bearer token, service account token is not valid yet]", R.NOT_YET_VALID),
    ("[invalid bearer token, go-jose/go-jose: error in cryptographic primitive]", R.BAD_SIGNATURE),
    ('[invalid bearer token, token audiences ["a"] is invalid for the target audiences ["b"]]', R.NOT_AUTHENTICATED),
    ("invalid bearer token", R.NOT_AUTHENTICATED),
    # Nobody's
    ("", R.NOT_AUTHENTICATED),
    ("SERVICEACCOUNT UID (A) DOES NOT MATCH", R.ACCOUNT_RECREATED),
    ("x" * 100_000 + "pod UID does not match", R.NOT_AUTHENTICATED),
]


@pytest.mark.parametrize(("error", "reason"), TEXTS, ids=range(len(TEXTS)))
def test_what_api_servers_say(error: str, reason: TokenReason) -> None:
    verdict = judged(refused(error))
    assert isinstance(verdict, Refused)
    assert verdict.reason is reason
    assert verdict.todo
    assert not error or error not in repr(verdict)


def test_what_was_invalidated_is_told_by_the_claims() -> None:
    error = "[invalid bearer token, service account token has been invalidated]"
    of_node = replace(CALLER, pod=None)
    of_secret = replace(CALLER, pod=None, node=None)
    for caller, reason in ((CALLER, R.POD_GONE), (of_node, R.NODE_GONE), (of_secret, R.NOT_AUTHENTICATED)):
        verdict = read_review(201, refused(error), caller, OURS)
        assert isinstance(verdict, Refused)
        assert verdict.reason is reason


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"authenticated": False},
        {"authenticated": "true", "user": USER, "audiences": ["istio-ca"]},
        {"authenticated": 1, "user": USER, "audiences": ["istio-ca"]},
        {"user": USER, "audiences": ["istio-ca"]},
        {"authenticated": True, "user": USER, "audiences": ["istio-ca"], "error": "x"},
        {"authenticated": True, "user": USER, "audiences": ["istio-ca"], "error": ["x"]},
        {"error": 5},
    ],
)
def test_only_a_plain_yes_is_one(status: dict[str, object]) -> None:
    verdict = judged(review(status))
    assert isinstance(verdict, Refused)
    assert verdict.reason is R.NOT_AUTHENTICATED


# --- answers that say nothing of the token -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "cause", "said"),
    [
        (401, Cause.UNAUTHORIZED, "check the credential under `api_server`"),
        (403, Cause.FORBIDDEN, 'resources: ["tokenreviews"], verbs: ["create"]'),
        (404, Cause.ANSWER, "API server"),
        (429, Cause.THROTTLED, "priority and fairness"),
        (500, Cause.SERVER_ERROR, "500"),
        (503, Cause.SERVER_ERROR, "503"),
        (504, Cause.SERVER_ERROR, "504"),
        (302, Cause.ANSWER, "302"),
        (204, Cause.ANSWER, "204"),
        (400, Cause.ANSWER, "400"),
        (409, Cause.ANSWER, "409"),
        (422, Cause.ANSWER, "422"),
        (0, Cause.ANSWER, "0"),
    ],
)
def test_no_status_but_success_is_a_verdict(status: int, cause: Cause, said: str) -> None:
    for body in (b"", confirmed(CALLER), refused()):
        verdict = judged(body, status)
        assert isinstance(verdict, Unjudged)
        assert verdict.cause is cause
        assert said in verdict.why + verdict.todo


@pytest.mark.parametrize(("header", "seconds"), [("", None), ("3", 3.0), ("soon", None), ("-1", None), ("٣", None)])
def test_how_long_to_wait(header: str, seconds: float | None) -> None:
    verdict = read_review(429, b"", CALLER, OURS, retry_after=header)
    assert isinstance(verdict, Unjudged)
    assert verdict.retry_after == seconds


GARBAGE = [
    b"",
    b"<html>log in</html>",
    b"[]",
    b"null",
    b"\xff",
    b"{" * 40,
    confirmed(CALLER)[:-1],
    confirmed(CALLER).replace(b"TokenReview", b"Status"),
    json.dumps({"kind": "TokenReview"}).encode(),
    json.dumps({"kind": "TokenReview", "status": "Failure"}).encode(),
    confirmed(CALLER).replace(b'"authenticated":', b'"authenticated": false, "authenticated":'),
    confirmed(CALLER, pad="x" * MAX_ANSWER_BYTES),
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_no_verdict(body: bytes) -> None:
    verdict = judged(body)
    assert isinstance(verdict, Unjudged)
    assert verdict.cause is Cause.ANSWER


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=8)
    | st.sampled_from(["istio-ca", "system:serviceaccounts"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["authenticated", "user", "audiences", "error"]), JSON))
def test_nothing_that_is_not_the_caller_is_confirmed(status: dict[str, object]) -> None:
    assert not isinstance(judged(review(status)), Confirmed)


@given(st.binary(max_size=200), st.integers(0, 600))
def test_any_bytes_get_a_verdict_and_no_traceback(body: bytes, status: int) -> None:
    assert isinstance(judged(body, status), Unjudged)


# --- may we ask at all ---------------------------------------------------------------------------------------------


def test_the_self_check() -> None:
    assert read_self_check(201, refused()) is None
    for status, cause in ((401, Cause.UNAUTHORIZED), (403, Cause.FORBIDDEN), (500, Cause.SERVER_ERROR)):
        found = read_self_check(status, b"")
        assert found is not None
        assert found.cause is cause
    for body in (b"", review({"authenticated": True}), review({"authenticated": "x"})):
        found = read_self_check(201, body)
        assert found is not None
        assert found.cause is Cause.ANSWER


def test_no_verdict_holds_any_of_the_answer() -> None:
    token = MAKER.token().decode()
    bodies = [confirmed(CALLER, user={}), refused(f"bad {token}"), confirmed(CALLER)[:-1], *GARBAGE]
    for body in bodies:
        shown = repr(judged(body))
        assert not any(part in shown for part in token.split("."))
