"""The threads of a listener: every end is said once, an error ends no thread, and a thread that waits holds no call."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.server.call_pool import CallPool, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pool() -> Iterator[CallPool]:
    pool = CallPool(4, "test-call")
    pool.start()
    yield pool
    pool.stop()
    until(lambda: not threads())


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("test-call")]


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def test_tasks_run_at_once_in_as_many_threads_as_there_are(pool: CallPool) -> None:
    all_here = threading.Barrier(4)
    met: list[int] = []

    def meet(number: int) -> None:
        all_here.wait(20)
        met.append(number)

    for number in range(4):
        pool.submit(meet, number)
    until(lambda: sorted(met) == [0, 1, 2, 3])


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_end_is_said_once(pool: CallPool, when: str) -> None:
    go, told = threading.Event(), list[object]()
    ending = pool.submit(go.wait, 20)
    if when == "before":
        ending.add_done_callback(told.append)
        assert not told
        go.set()
    else:
        go.set()
        until(lambda: ending._ended)
        ending.add_done_callback(told.append)
    until(lambda: told)
    ending.say()
    assert told == [ending]


def test_an_end_is_said_once_whoever_comes_first() -> None:
    for _ in range(500):
        ending, told = Ending(), list[object]()
        speaker = threading.Thread(target=ending.say)
        speaker.start()
        ending.add_done_callback(told.append)
        speaker.join(20)
        assert told == [ending]


def test_an_error_is_logged_said_as_an_end_and_ends_no_thread(pool: CallPool, caplog: pytest.LogCaptureFixture) -> None:
    told: list[object] = []
    for _ in range(8):
        pool.submit(lambda: 1 / 0).add_done_callback(told.append)
    until(lambda: len(told) == 8)
    assert len(threads()) == 4
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


class Content:
    """Something that can be watched going away."""


def test_a_thread_that_waits_holds_on_to_no_call(pool: CallPool) -> None:
    content = Content()
    gone = weakref.ref(content)
    pool.submit(lambda _: None, content)
    del content
    until(lambda: gone() is None)


def test_what_was_submitted_before_the_end_is_done() -> None:
    pool, done = CallPool(1, "test-call"), list[int]()
    for number in range(100):
        pool.submit(done.append, number)
    pool.stop()
    pool.start()
    until(lambda: not threads())
    assert done == list(range(100))
