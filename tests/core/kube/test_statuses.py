"""Every status becomes an error that says what was asked, what was seen and what to do; the server is not believed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshpki.errors import UnavailableError
from meshpki.kube import errors
from meshpki.kube.answer import Answer, objects_at, read_object
from meshpki.kube.errors import FieldConflict, KubeAnswerError, KubeError, Permission
from meshpki.kube.statuses import error_for

NEEDED = Permission("create", "tokenreviews", "authentication.k8s.io")


def failed(code: int, message: str = "", **fields: object) -> KubeError:
    body = json.dumps({"kind": "Status", "code": code, "message": message, **fields}).encode()
    return error_for(Answer(code, body, {}), doing="create tokenreviews at https://host", permission=NEEDED)


@pytest.mark.parametrize(
    ("code", "kind", "todo"),
    [
        (302, errors.KubeAnswerError, "name the address of the API server itself"),
        (400, errors.KubeInvalidError, "put the object right"),
        (401, errors.KubeUnauthorizedError, "log in again"),
        (402, errors.KubeStatusError, ""),
        (404, errors.KubeNotFoundError, "no such API"),
        (405, errors.KubeUnsupportedError, "update the cluster"),
        (409, errors.KubeConflictError, "read it again"),
        (410, errors.KubeGoneError, "list again"),
        (415, errors.KubeUnsupportedError, "update the cluster"),
        (422, errors.KubeInvalidError, "put the object right"),
        (429, errors.KubeThrottledError, "later, and less often"),
        (500, errors.KubeServerError, "API server's log"),
        (503, errors.KubeServerError, "API server's log"),
        (599, errors.KubeServerError, "API server's log"),
    ],
)
def test_each_status_has_its_error(code: int, kind: type[KubeError], todo: str) -> None:
    error = failed(code, "because so")
    assert type(error) is kind
    assert str(error).startswith("create tokenreviews at https://host: ")
    assert todo in error.todo
    assert isinstance(error, UnavailableError) == (code == 429 or code >= 500)


def test_a_missing_permission_comes_with_its_rule() -> None:
    """As 1.37.2 says it."""
    error = failed(
        403,
        'tokenreviews.authentication.k8s.io is forbidden: User "system:serviceaccount:mesh:ca" cannot create resource '
        '"tokenreviews" in API group "authentication.k8s.io" at the cluster scope',
        reason="Forbidden",
    )
    assert isinstance(error, errors.KubeForbiddenError)
    assert error.permission == NEEDED
    assert str(error) == (
        "create tokenreviews at https://host: 403, user 'system:serviceaccount:mesh:ca' may not create "
        "tokenreviews.authentication.k8s.io; wanted: the permission to create tokenreviews.authentication.k8s.io; "
        'to do: add the rule {apiGroups: ["authentication.k8s.io"], resources: ["tokenreviews"], verbs: ["create"]} to '
        "a ClusterRole that is bound to it; then `kubectl auth can-i create tokenreviews.authentication.k8s.io -A --as "
        "system:serviceaccount:mesh:ca` says yes"
    )


def test_the_rule_follows_from_our_request_whatever_the_server_says() -> None:
    error = failed(403, 'User "x" cannot * resource "*" in API group "*"', details={"kind": "secrets"})
    assert "secrets" not in str(error)
    assert 'resources: ["tokenreviews"]' in error.todo


def test_a_user_name_cannot_break_out_of_the_command() -> None:
    error = failed(403, 'User "x; rm -rf ~" cannot create')
    assert "--as 'x; rm -rf ~'" in error.todo


def test_a_refusal_by_a_rule_of_the_cluster_asks_for_no_role() -> None:
    error = failed(403, 'pods "p" is forbidden: exceeded quota: pods')
    assert "exceeded quota" in error.seen
    assert "rule" not in error.todo.replace("cluster's rules", "")


def test_a_bare_403_still_names_the_permission() -> None:
    error = error_for(Answer(403, b"<html>no</html>", {}), doing="create x", permission=NEEDED)
    assert "we may not create tokenreviews" in error.seen
    assert "--as USER" in error.todo


def test_a_conflict_names_the_other_manager_and_the_field() -> None:
    """As 1.37.2 says it."""
    error = failed(
        409,
        'Apply failed with 1 conflict: conflict with "kubectl" using v1: .data.a',
        reason="Conflict",
        details={
            "causes": [
                {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl" using v1', "field": ".data.a"}
            ]
        },
    )
    assert isinstance(error, errors.KubeConflictError)
    assert error.conflicts == (FieldConflict("kubectl", ".data.a"),)
    assert error.todo == "let 'kubectl' give up .data.a, or leave that field out"


def test_an_object_that_exists_is_another_conflict() -> None:
    error = failed(409, 'configmaps "a" already exists', reason="AlreadyExists")
    assert "take it away" in error.todo


def test_a_missing_object_is_told_from_a_missing_api() -> None:
    assert failed(404, 'pods "p" not found', details={"name": "p", "kind": "pods"}).todo == (
        "check the name and the namespace"
    )
    assert "no such API" in failed(404, "the server could not find the requested resource", details={}).todo


def test_messages_are_one_printable_line_and_not_long() -> None:
    text = str(failed(500, "a\n\x1b[31mb\u202e" + "x" * 100_000))
    assert "\n" not in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert len(text) < 700


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["kind", "message", "details", "causes", "reason", "name", "field"]) | st.text(max_size=5),
            inner,
        )
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(code=st.integers(300, 599), value=_JSON)
def test_any_body_makes_an_error_of_its_status(code: int, value: object) -> None:
    body = {"kind": "Status", **value} if isinstance(value, dict) else value
    for data in (json.dumps(body).encode(), repr(value).encode()):
        error = error_for(Answer(code, data, {}), doing="x", permission=NEEDED)
        assert isinstance(error, KubeError)
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b"\xff", b'{"a": NaN}', b"[" * 100_000, b"<html>", b"1" * 5000]
)
def test_what_is_no_object_is_said_without_being_shown(body: bytes) -> None:
    with pytest.raises(KubeAnswerError, match=rf"the answer is no JSON object \({len(body)} bytes\)") as caught:
        read_object(body, "the answer")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_lists_of_something_else_are_refused() -> None:
    assert objects_at({"items": None}, "items", "x") == []
    wrong: list[object] = [{}, "a", [1], [None]]
    for items in wrong:
        with pytest.raises(KubeAnswerError):
            objects_at({"items": items}, "items", "x")
