"""A request that brought nothing says what happened, which permission it needs, and what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from meshpki.errors import UsageError
from meshpki.identity import TrustDomain
from meshpki.provision.cluster.evidence import Exchange, Outcome
from meshpki.provision.cluster.token import Account, AccountSeen
from meshpki.provision.proof.question import Question
from meshpki.provision.proof.trouble import not_ours, permission_for, trouble

SPACE = "/api/v1/namespaces/default"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"
CANNOT = 'serviceaccounts is forbidden: User "x" cannot create resource'


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("POST", f"{SPACE}/serviceaccounts", "create serviceaccounts in namespace default"),
        ("GET", f"{SPACE}/serviceaccounts/meshpki-verify", "get serviceaccounts meshpki-verify in namespace default"),
        (
            "POST",
            f"{SPACE}/serviceaccounts/meshpki-verify/token",
            "create serviceaccounts/token meshpki-verify in namespace default",
        ),
        ("DELETE", f"{SPACE}/pods/meshpki-verify", "delete pods meshpki-verify in namespace default"),
        ("POST", REVIEWS, "create tokenreviews.authentication.k8s.io"),
    ],
)
def test_the_permission_is_what_the_request_needs(method: str, path: str, words: str) -> None:
    found = permission_for(method, path)
    assert str(found) == words
    assert "deploy/kubernetes/verify-rbac.yaml" in found.todo


def test_what_everybody_may_is_in_no_file_of_ours() -> None:
    found = permission_for("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews")
    assert "every authenticated user has it" in found.todo


@pytest.mark.parametrize(
    ("request_", "status", "outcome", "message", "about", "seen", "todo"),
    [
        (
            f"POST {SPACE}/pods", 403, Outcome.FORBIDDEN, CANNOT, "",
            "not allowed to create pods in namespace default", "verify-rbac.yaml",
        ),
        (
            f"POST {SPACE}/pods", 403, Outcome.FORBIDDEN, "exceeded quota: pods=0", "",
            "was not admitted: HTTP 403: exceeded quota: pods=0", "--namespace",
        ),
        (f"POST {SPACE}/pods", 404, Outcome.NOT_FOUND, "not found", "namespaces default", "HTTP 404", "--namespace"),
        (
            f"POST {SPACE}/serviceaccounts/meshpki-verify/token", 404, Outcome.NOT_FOUND,
            "the server could not find the requested resource", "", "HTTP 404", "meshpki detect",
        ),
        (
            f"POST {SPACE}/serviceaccounts/meshpki-verify/token", 404, Outcome.NOT_FOUND,
            'serviceaccounts "meshpki-verify" not found', "serviceaccounts meshpki-verify", "HTTP 404",
            "whoever removes",
        ),
        (f"POST {REVIEWS}", 500, Outcome.SERVER_ERROR, "oh", "", "HTTP 500: oh", "API server's log"),
        (f"POST {REVIEWS}", 0, Outcome.NO_ANSWER, "refused", "", "no answer: refused", "reachable"),
        (f"POST {REVIEWS}", 200, Outcome.UNREADABLE, "no JSON", "", "HTTP 200: no JSON", "proxy"),
        (f"POST {REVIEWS}", 401, Outcome.UNAUTHORIZED, "", "", "HTTP 401", "credential"),
        (f"POST {REVIEWS}", 429, Outcome.THROTTLED, "", "", "HTTP 429", "less busy"),
    ],
)  # fmt: skip
def test_trouble(request_: str, status: int, outcome: Outcome, message: str, about: str, seen: str, todo: str) -> None:
    error = trouble(Exchange(request_, status, outcome, message, about))
    assert seen in error.seen
    assert todo in error.todo
    assert error.evidence[0].startswith(request_)


@pytest.mark.parametrize(
    ("state", "says"),
    [(Account.FOREIGN, "verify did not make it"), (Account.IN_USE, "another `meshpki verify` is at work")],
)
def test_what_somebody_else_made_stays(state: Account, says: str) -> None:
    error = not_ours(Exchange("POST x", 409, Outcome.DONE, found=AccountSeen(state)), "Pod default/meshpki-verify")
    assert error is not None
    assert says in error.seen
    assert "--namespace" in error.todo


@pytest.mark.parametrize("state", [Account.MADE, Account.MADE_ANEW])
def test_what_we_made_is_ours(state: Account) -> None:
    assert not_ours(Exchange("POST x", 201, Outcome.DONE, found=AccountSeen(state)), "it") is None


@pytest.mark.parametrize("wish", [{"namespace": "../x"}, {"namespace": ""}, {"audience": ""}, {"audience": "a\nb"}])
def test_questions_that_cannot_be_meant(wish: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        replace(Question(TrustDomain("mesh.local")), **wish)  # type: ignore[arg-type]
