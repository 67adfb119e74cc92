"""What the API server's word on a mesh token comes to."""

from __future__ import annotations

import pytest

from meshpki.errors import RefusedError
from meshpki.identity import TrustDomain
from meshpki.provision.cluster.review import ReviewSeen
from meshpki.provision.proof import reviewed
from meshpki.provision.proof.question import Question

QUESTION = Question(TrustDomain("mesh.local"))
USER = "system:serviceaccount:default:meshpki-verify"
REFUSED = '[invalid bearer token, token audiences ["istio-ca"] is invalid for the target audiences ["https://api"]]'


def test_confirmed() -> None:
    seen = ReviewSeen(authenticated=True, audiences=("istio-ca",), user=USER)
    assert reviewed.confirmed(seen, QUESTION) == f"authenticated for istio-ca as {USER}"


@pytest.mark.parametrize(
    ("seen", "says"),
    [
        (ReviewSeen(authenticated=False), "without saying why"),
        (ReviewSeen(authenticated=False, error="no such key"), "no such key"),
        (ReviewSeen(authenticated=True, audiences=("istio-ca",), user=USER, error="but"), "refuses the token.*but"),
        (ReviewSeen(authenticated=True, audiences=(), user=USER), "no audience at all: audiences are ignored"),
        (ReviewSeen(authenticated=True, audiences=("vault",), user=USER), "took it for vault"),
        (ReviewSeen(authenticated=True, audiences=("istio-ca",), user="alice"), "took it for 'alice'"),
        (ReviewSeen(authenticated=True, audiences=("istio-ca",)), "took it for ''"),
    ],
)
def test_not_confirmed(seen: ReviewSeen, says: str) -> None:
    with pytest.raises(RefusedError, match=says):
        reviewed.confirmed(seen, QUESTION)


def test_closed() -> None:
    seen = ReviewSeen(authenticated=False, error=REFUSED)
    assert reviewed.closed(seen, QUESTION) == "refused: its own audiences are https://api"
    assert reviewed.closed(ReviewSeen(authenticated=False), QUESTION) == "refused"


@pytest.mark.parametrize(
    ("audiences", "says"),
    [(("https://api", "istio-ca"), "istio-ca is among its own audiences"), ((), "whatever their audience is")],
)
def test_open_is_a_red_finding(audiences: tuple[str, ...], says: str) -> None:
    with pytest.raises(RefusedError, match=f"A MESH TOKEN OPENS THE API SERVER: .*{says}") as caught:
        reviewed.closed(ReviewSeen(authenticated=True, audiences=audiences, user=USER), QUESTION)
    assert caught.value.todo


@pytest.mark.parametrize("status", [200, 201, 403, 404])
def test_any_answer_but_401_means_that_it_was_let_in(status: int) -> None:
    with pytest.raises(RefusedError, match="A MESH TOKEN OPENS THE API SERVER"):
        reviewed.shut_out(status)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_failing_server_tells_nothing(status: int) -> None:
    with pytest.raises(RefusedError, match=f"could not tell: HTTP {status}"):
        reviewed.shut_out(status)


def test_shut_out() -> None:
    assert reviewed.shut_out(401) == "401 Unauthorized"
