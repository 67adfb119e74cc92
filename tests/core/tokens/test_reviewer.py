"""The shell around reviews: cache, one ask per token, so many at once, and nobody waits for a server that is away."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from meshpki.errors import InvalidValueError
from meshpki.kube.errors import KubeAnswerError, KubeCredentialError, KubeUnreachableError, Unreachable
from meshpki.runtime.logs import JsonFormatter
from meshpki.tokens.policy import ClusterPolicy
from meshpki.tokens.reasons import TokenReason, TokenRefusedError, TokenUnjudgedError, UnjudgedReason
from meshpki.tokens.review import NO_TOKEN, Cause
from meshpki.tokens.review_counts import Outcome
from meshpki.tokens.review_gate import Places
from meshpki.tokens.reviewer import ReviewTerms, TokenReviewer
from support.reviews import FakeApi, answer, caller_of, confirmed, confirming, refused, review
from support.tokens import NOW, TokenMaker

if TYPE_CHECKING:
    from collections.abc import Callable

    from meshpki.kube.answer import Answer

MAKER = TokenMaker()
POLICY = ClusterPolicy("c1", MAKER.issuer)
GONE = "[invalid bearer token, service account token has been invalidated]"
AWAY = KubeUnreachableError("no answer", why=Unreachable.REFUSED)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


class Rig:
    """A reviewer with an API server that is none."""

    def __init__(self, behaviour: Callable[[str], Answer] | None = None, **terms: float) -> None:
        self.clock = Clock()
        self.api = FakeApi(behaviour or confirming(POLICY))
        bounds = ReviewTerms(**{"timeout_seconds": 60.0, "patience_seconds": 60.0, **terms})  # type: ignore[arg-type]
        self.places = Places(bounds.at_once + bounds.waiting)
        self.reviewer = TokenReviewer(self.api, POLICY, bounds, places=self.places, monotonic=self.clock)

    def ask(self, token: bytes | None = None, now: float = NOW) -> None:
        token = token or MAKER.token()
        self.reviewer.review(token, caller_of(token, POLICY), now)

    def refusal(self, token: bytes | None = None, now: float = NOW) -> TokenReason:
        with pytest.raises(TokenRefusedError) as caught:
            self.ask(token, now)
        assert caught.value.cluster == "c1"
        return caught.value.reason

    def unjudged(self, token: bytes | None = None, now: float = NOW) -> UnjudgedReason:
        with pytest.raises(TokenUnjudgedError) as caught:
            self.ask(token, now)
        assert caught.value.cluster == "c1"
        return caught.value.reason

    def count(self, outcome: Outcome) -> int:
        return self.reviewer.counts.now().outcomes[outcome]


def token(number: int) -> bytes:
    return MAKER.token(jti=f"token-{number}")


def raising(error: Exception) -> Callable[[str], Answer]:
    def behave(_: str) -> Answer:
        raise error

    return behave


# --- the cache -----------------------------------------------------------------------------------------------------


def test_a_verdict_is_used_again_until_it_is_too_old() -> None:
    rig = Rig()
    for second in (0, 1, 29.9):
        rig.ask(now=NOW + second)
    assert len(rig.api.asked) == 1
    rig.ask(now=NOW + 30)
    assert len(rig.api.asked) == 2
    assert (rig.count(Outcome.CONFIRMED), rig.count(Outcome.CACHED)) == (2, 2)


def test_what_is_deleted_is_refused_when_the_verdict_is_too_old() -> None:
    rig = Rig()
    rig.ask()
    rig.api.behaviour = lambda _: answer(refused(GONE))
    rig.ask(now=NOW + 29)
    assert rig.refusal(now=NOW + 30) is TokenReason.POD_GONE
    assert rig.refusal(now=NOW + 31) is TokenReason.POD_GONE
    assert len(rig.api.asked) == 2, "a refusal is kept too"
    rig.api.behaviour = confirming(POLICY)
    rig.ask(now=NOW + 36)


def test_never_longer_than_the_token() -> None:
    rig = Rig()
    short = MAKER.token(lifetime=600)
    rig.ask(short, NOW + 590)
    rig.ask(short, NOW + 600.5)
    assert len(rig.api.asked) == 2


def test_each_token_has_a_verdict_of_its_own() -> None:
    rig = Rig()
    rig.ask(token(1))
    rig.api.behaviour = lambda _: answer(refused(GONE))
    assert rig.refusal(token(2)) is TokenReason.POD_GONE
    rig.ask(token(1))


def test_without_a_cache_every_call_asks() -> None:
    rig = Rig(cache_seconds=0)
    rig.ask()
    rig.ask()
    assert len(rig.api.asked) == 2


def test_our_audiences_are_asked_for() -> None:
    rig = Rig()
    rig.ask()
    assert rig.api.asked[0]["spec"] == {"token": MAKER.token().decode(), "audiences": ["istio-ca"]}


# --- an API server that gives no verdict ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [
        (raising(AWAY), Cause.AWAY),
        (raising(KubeUnreachableError("no answer", why=Unreachable.TIMEOUT)), Cause.SLOW),
        (raising(KubeCredentialError("the token file is gone")), Cause.UNAUTHORIZED),
        (lambda _: answer(b"", 401), Cause.UNAUTHORIZED),
        (lambda _: answer(b"", 403), Cause.FORBIDDEN),
        (lambda _: answer(b"", 429), Cause.THROTTLED),
    ],
)
def test_nobody_waits_for_a_server_that_does_not_answer(
    behaviour: Callable[[str], Answer], cause: Cause, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(behaviour)
    for number in range(5):
        assert rig.unjudged(token(number)) is UnjudgedReason.REVIEW
    assert len(rig.api.asked) == 1
    assert (rig.count(Outcome.UNJUDGED), rig.count(Outcome.TURNED_AWAY)) == (1, 4)
    failure = rig.reviewer.failure
    assert failure is not None
    assert failure.cause is cause
    assert [record.message for record in caplog.records] == ["tokens cannot be reviewed"]
    rig.api.behaviour = confirming(POLICY)
    rig.clock.now += 1
    caplog.set_level(logging.INFO)
    for number in range(5):
        rig.ask(token(number))
    assert rig.reviewer.failure is None
    assert caplog.records[-1].message == "tokens are reviewed again"


@pytest.mark.parametrize(
    "behaviour",
    [
        lambda _: answer(b"", 500),
        lambda _: answer(b"", 503),
        lambda _: answer(b"<html>", 201),
        raising(ValueError("a bug")),
        raising(KubeAnswerError("an answer without end")),
    ],
)
def test_an_error_about_one_token_keeps_nobody_else_out(behaviour: Callable[[str], Answer]) -> None:
    rig = Rig(behaviour)
    assert rig.unjudged(token(1)) is UnjudgedReason.REVIEW
    rig.api.behaviour = confirming(POLICY)
    rig.ask(token(2))
    rig.ask(token(1))


def test_a_bug_below_shows_no_token(caplog: pytest.LogCaptureFixture) -> None:
    shown = MAKER.token()
    rig = Rig(raising(ValueError(shown.decode())))
    with pytest.raises(TokenUnjudgedError) as caught:
        rig.ask(shown)
    logged = "".join(JsonFormatter().format(record) for record in caplog.records)
    assert "ValueError" in logged
    assert shown[20:60].decode() not in f"{caught.value!s}{caught.value!r}{logged}"


def test_a_verdict_at_hand_is_used_while_the_server_is_away() -> None:
    rig = Rig()
    rig.ask(token(1))
    rig.api.behaviour = raising(AWAY)
    assert rig.unjudged(token(2), NOW + 10) is UnjudgedReason.REVIEW
    rig.ask(token(1), NOW + 10)
    assert rig.unjudged(token(1), NOW + 30) is UnjudgedReason.REVIEW, "and no longer than that"


def test_an_empty_answer_of_1_13_is_asked_for_again() -> None:
    """One write in some hundreds is answered by 200 and no byte (kubernetes/kubernetes#71696)."""
    bodies = [b"", confirmed(caller_of(MAKER.token(), POLICY))]
    rig = Rig(lambda _: answer(bodies.pop(0), 200))
    rig.ask()
    assert len(rig.api.asked) == 2
    always = Rig(lambda _: answer(b"", 200))
    assert always.unjudged() is UnjudgedReason.REVIEW
    assert len(always.api.asked) == 2


# --- many at once --------------------------------------------------------------------------------------------------


class Doors:
    """Makes asks wait until a test opens."""

    def __init__(self) -> None:
        self.came = threading.Semaphore(0)
        self.open = threading.Event()
        self.inner = confirming(POLICY)

    def __call__(self, token: str) -> Answer:
        self.came.release()
        assert self.open.wait(60)
        return self.inner(token)

    def wait_for(self, number: int) -> None:
        for _ in range(number):
            assert self.came.acquire(timeout=60)


def test_calls_with_the_same_token_share_one_ask() -> None:
    doors = Doors()
    rig = Rig(doors, at_once=8, waiting=8)
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(rig.ask) for _ in range(8)]
        doors.wait_for(1)
        until(lambda: rig.count(Outcome.SHARED) == 7)
        doors.open.set()
        for call in calls:
            call.result(60)
    assert len(rig.api.asked) == 1


def test_a_refusal_is_shared_too_and_each_gets_an_error_of_its_own() -> None:
    doors = Doors()
    doors.inner = lambda _: answer(refused(GONE))
    rig = Rig(doors)
    with ThreadPoolExecutor(2) as pool:
        calls = [pool.submit(rig.ask) for _ in range(2)]
        until(lambda: rig.count(Outcome.SHARED) == 1)
        doors.open.set()
        errors = [call.exception(60) for call in calls]
    assert all(isinstance(error, TokenRefusedError) for error in errors)
    assert errors[0] is not errors[1]


def test_so_many_ask_so_many_wait_and_the_others_hear_at_once() -> None:
    doors = Doors()
    rig = Rig(doors, at_once=2, waiting=1, patience_seconds=30)
    with ThreadPoolExecutor(3) as pool:
        calls = [pool.submit(rig.ask, token(number)) for number in range(3)]
        doors.wait_for(2)
        until(lambda: rig.unjudged(token(9)) is UnjudgedReason.REVIEW_BUSY if rig.places.taken == 3 else False)
        doors.open.set()
        for call in calls:
            call.result(60)
    assert rig.api.most_at_once == 2
    assert len(rig.api.asked) == 3
    rig.ask(token(9))


def test_who_waits_for_a_place_does_so_for_a_while_only() -> None:
    doors = Doors()
    rig = Rig(doors, at_once=1, waiting=1, patience_seconds=0.05)
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(rig.ask, token(1))
        doors.wait_for(1)
        assert rig.unjudged(token(2)) is UnjudgedReason.REVIEW_BUSY
        doors.open.set()
        call.result(60)
    rig.ask(token(2))


def test_after_a_storm_every_place_is_free_again() -> None:
    rig = Rig(at_once=2, waiting=2)
    ends: list[str] = []

    def one(number: int) -> None:
        rig.api.behaviour = raising(ValueError("x")) if number % 3 == 0 else confirming(POLICY)
        try:
            rig.ask(token(number % 7), NOW + number * 100)
        except (TokenUnjudgedError, TokenRefusedError) as error:
            ends.append(error.reason)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(200)))
    assert rig.places.taken == 0
    assert rig.reviewer._flights == {}
    rig.api.behaviour = confirming(POLICY)
    rig.ask(token(1000))
    assert rig.api.most_at_once <= 2


def until(condition: Callable[[], bool]) -> None:
    waiting = threading.Event()
    for _ in range(6000):
        if condition():
            return
        waiting.wait(0.01)
    raise AssertionError("it never came true")


# --- may we ask ----------------------------------------------------------------------------------------------------


def test_the_self_check_names_what_is_missing() -> None:
    rig = Rig()
    assert rig.reviewer.check() is None
    spec = rig.api.asked[0]["spec"]
    assert isinstance(spec, dict)
    assert spec["token"] == NO_TOKEN.decode()
    rig.api.behaviour = lambda _: answer(b"", 403)
    found = rig.reviewer.check()
    assert found is not None
    assert "tokenreviews.authentication.k8s.io" in found.why
    assert "create" in found.todo
    assert rig.unjudged() is UnjudgedReason.REVIEW, "and calls hear it without asking"
    assert len(rig.api.asked) == 2


def test_the_self_check_opens_the_way_when_the_server_is_back() -> None:
    rig = Rig(raising(AWAY))
    rig.unjudged()
    rig.api.behaviour = confirming(POLICY)
    assert rig.reviewer.check() is None
    rig.ask()


def test_the_self_check_knows_a_server_that_believes_everything() -> None:
    rig = Rig(lambda _: answer(review({"authenticated": True, "user": {}})))
    found = rig.reviewer.check()
    assert found is not None
    assert found.cause is Cause.ANSWER


def test_self_checks_are_not_counted_as_reviews() -> None:
    rig = Rig()
    rig.reviewer.check()
    assert rig.reviewer.counts.now().asked == 0


# --- numbers -------------------------------------------------------------------------------------------------------


def test_latency_is_counted_for_asks_alone() -> None:
    rig = Rig()

    def slow(token: str) -> Answer:
        rig.clock.now += 0.003
        return confirming(POLICY)(token)

    rig.api.behaviour = slow
    rig.ask()
    rig.ask()
    numbers = rig.reviewer.counts.now()
    assert numbers.asked == 1
    assert numbers.seconds == pytest.approx(0.003)
    assert numbers.buckets[:3] == (0, 0, 1)
    assert numbers.buckets[-1] == 1


@pytest.mark.parametrize(
    "terms",
    [
        {"cache_seconds": -1},
        {"cache_seconds": 601},
        {"timeout_seconds": 0},
        {"patience_seconds": 0},
        {"at_once": 0},
        {"waiting": -1},
        {"timeout_seconds": float("nan")},
    ],
)
def test_terms_that_make_no_sense(terms: dict[str, float]) -> None:
    with pytest.raises(InvalidValueError):
        replace(ReviewTerms(), **terms)  # type: ignore[arg-type]
