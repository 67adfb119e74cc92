"""Turns at one API server, taken by threads; and what its errors say of it."""

from __future__ import annotations

import threading

import pytest

from meshpki.errors import MachineError, MeshpkiError, UnavailableError
from meshpki.kube.errors import (
    KubeAnswerError,
    KubeCredentialError,
    KubeForbiddenError,
    KubeInvalidError,
    KubeServerError,
    KubeThrottledError,
    KubeUnauthorizedError,
    KubeUnreachableError,
    Permission,
    Unreachable,
)
from meshpki.tokens.api_turns import Turns, cause_of
from meshpki.tokens.review import Cause, Unjudged
from meshpki.tokens.review_gate import FULL, Gate, Places


def turns(places: Places, at_once: int, patience: float) -> Turns:
    return Turns(Gate(places, probe_seconds=5), at_once, patience_seconds=patience, monotonic=lambda: 0.0)


def test_so_many_ask_the_others_wait_and_no_more_come_in() -> None:
    places = Places(2)
    taken = turns(places, 1, 30.0)
    assert (taken.enter(), taken.enter(), taken.enter()) == (None, None, FULL)
    waited = threading.Event()

    def second() -> None:
        with taken.turn() as mine:
            assert mine
            waited.set()
        taken.leave()

    thread = threading.Thread(target=second)
    with taken.turn() as mine:
        assert mine
        thread.start()
        assert not waited.wait(0.05)
    assert waited.wait(60)
    thread.join(60)
    taken.leave()
    assert places.taken == 0


def test_who_waits_does_so_for_a_while_only_and_takes_nothing() -> None:
    taken = turns(Places(2), 1, 0.01)
    with taken.turn() as first, taken.turn() as second:
        assert (first, second) == (True, False)
    with taken.turn() as again:
        assert again


def test_a_turn_that_fails_is_given_on() -> None:
    taken = turns(Places(2), 1, 0.01)
    with pytest.raises(ValueError, match="x"), taken.turn():
        raise ValueError("x")
    with taken.turn() as again:
        assert again


def test_nobody_comes_in_while_the_server_is_away() -> None:
    taken, away = turns(Places(2), 1, 0.01), Unjudged(Cause.AWAY, "away")
    assert taken.landed(away)
    assert (taken.failure, taken.enter()) == (away, away)
    assert taken.landed(None)
    assert (taken.failure, taken.enter()) == (None, None)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (KubeUnreachableError("x", why=Unreachable.TIMEOUT), Cause.SLOW),
        (KubeUnreachableError("x", why=Unreachable.REFUSED), Cause.AWAY),
        (UnavailableError("x"), Cause.AWAY),
        (KubeThrottledError("x", status=429), Cause.THROTTLED),
        (KubeServerError("x", status=503), Cause.SERVER_ERROR),
        (KubeUnauthorizedError("x", status=401), Cause.UNAUTHORIZED),
        (KubeCredentialError("x"), Cause.UNAUTHORIZED),
        (KubeForbiddenError("x", permission=Permission("get")), Cause.FORBIDDEN),
        (KubeInvalidError("x", status=422), Cause.ANSWER),
        (KubeAnswerError("x"), Cause.ANSWER),
        (MachineError("x"), Cause.ANSWER),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, MeshpkiError) else str(value),
)
def test_what_an_error_says_of_the_server(error: MeshpkiError, cause: Cause) -> None:
    assert cause_of(error) is cause
