"""The chores beside the calls."""

from __future__ import annotations

import threading

import pytest

from meshpki.ca.server.housekeeping import Housekeeping


def test_a_chore_that_fails_stops_no_other_and_is_logged_once_until_it_works(caplog: pytest.LogCaptureFixture) -> None:
    rounds = 0
    enough = threading.Event()

    def fail() -> None:
        if rounds not in {3, 4}:
            raise RuntimeError("out of order")

    def count() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 8:
            enough.set()

    chores = Housekeeping({"fail": fail, "count": count}, period=0.001)
    chores.start()
    assert enough.wait(60)
    chores.stop()
    chores.stop()
    assert sum(record.message == "a chore failed" for record in caplog.records) == 2


def test_the_first_round_is_at_once_and_stop_ends_the_wait() -> None:
    done = threading.Event()
    chores = Housekeeping({"once": done.set}, period=3600)
    chores.start()
    assert done.wait(60)
    chores.stop()


def test_stop_before_start() -> None:
    Housekeeping({}).stop()


def test_after_the_end_no_other_chore_is_begun() -> None:
    came, go, second = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        came.set()
        assert go.wait(60)

    chores = Housekeeping({"first": first, "second": second.set})
    chores.start()
    assert came.wait(60)
    chores.end()
    chores.stop(0.01)
    assert not go.is_set(), "it was not waited for"
    go.set()
    chores.stop()
    assert not second.is_set()
