"""Threads for what has to wait: one for each that waits and no more, no error that ends one, no call that is held."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.server.calls.places import Places
from meshpki.ca.server.calls.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST = 16


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers(MOST, "test-call")
    yield workers
    workers.stop()
    until(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-call")]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def test_there_is_a_thread_for_each_that_waits_made_when_it_is_needed(workers: Workers) -> None:
    assert not threads()
    for number in range(3):
        workers.submit(lambda: None)
        until(lambda: not workers._tasks)
        assert len(threads()) <= number + 1
    go, all_here = threading.Event(), threading.Barrier(MOST + 1)

    def meet() -> None:
        all_here.wait(60)
        go.wait(60)

    for _ in range(MOST):
        workers.submit(meet)
    all_here.wait(60)  # all of them wait at once
    done = list[int]()
    workers.submit(lambda: done.append(1))
    assert len(threads()) == MOST
    go.set()
    until(lambda: done)


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit])
def test_an_error_is_logged_and_ends_no_thread(
    workers: Workers, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    all_here = threading.Barrier(8)

    def fail() -> None:
        all_here.wait(60)
        raise error

    for _ in range(8):
        workers.submit(fail)
    until(lambda: len(caplog.records) == 8)
    assert len(threads()) == 8
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


class Content:
    """Something that can be watched going away."""

    def look(self) -> None:
        """Nothing."""


def test_a_thread_that_waits_holds_on_to_no_call(workers: Workers) -> None:
    content = Content()
    gone = weakref.ref(content)
    workers.submit(content.look)
    del content
    until(lambda: gone() is None)


def test_what_was_submitted_before_the_end_is_done(workers: Workers) -> None:
    done = list[int]()
    for number in range(100):
        workers.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    workers.stop()
    until(lambda: not threads())
    assert sorted(done) == list(range(100))


def test_a_machine_that_gives_no_more_threads_costs_no_call(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done, go = list[int](), threading.Event()
    workers.submit(lambda: go.wait(60))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_more)
        for number in range(5):
            workers.submit(lambda number=number: done.append(number))  # type: ignore[misc]
    assert "no thread for another call" in caplog.text
    go.set()
    until(lambda: done == [0, 1, 2, 3, 4])


def test_a_machine_that_gives_no_thread_at_all_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(MOST, "test-call")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_more)
        with pytest.raises(RuntimeError):
            workers.submit(lambda: None)
    assert workers._queue.empty()
    assert not workers._tasks


def _no_more(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_places_are_counted_and_given_back() -> None:
    places, calls = Places(2), [object(), object(), object()]
    for call in calls[:2]:
        assert not places.full()
        places.take(call)
    assert (places.full(), places.count(), places.most) == (True, 2, 2)
    places.leave(calls[2])  # has none
    assert places.full()
    places.leave(calls[0])
    places.leave(calls[0])
    assert (places.full(), places.count()) == (False, 1)
