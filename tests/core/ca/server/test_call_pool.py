"""The threads of a listener: one for each place and no more, an end that is said once, and no call that is held."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.server.call_pool import AsidePool, AtOnce, CallPool, Ending

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def pool() -> Iterator[CallPool]:
    pool = CallPool(16, "test-call")
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
    told, all_here = list[object](), threading.Barrier(8)

    def fail() -> None:
        all_here.wait(20)
        raise ZeroDivisionError

    for _ in range(8):
        pool.submit(fail).add_done_callback(told.append)
    until(lambda: len(told) == 8)
    assert len(threads()) == 8
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


def test_there_is_a_thread_for_each_place_made_when_it_is_needed(pool: CallPool) -> None:
    assert not threads()
    for number in range(3):
        pool.submit(lambda: None)
        until(lambda: not pool.count())
        assert len(threads()) <= number + 1
    go, all_here = threading.Event(), threading.Barrier(17)

    def meet() -> None:
        all_here.wait(60)
        go.wait(60)

    for _ in range(16):
        assert not pool.full()
        pool.submit(meet)
    all_here.wait(60)  # all sixteen are served at once
    assert (pool.full(), pool.count(), len(threads())) == (True, 16, 16)
    pool.submit(lambda: None)  # whoever asks has to look first
    assert len(threads()) == 16
    go.set()
    until(lambda: not pool.count())
    assert not pool.full()


def test_a_machine_that_gives_no_thread_costs_no_call(
    pool: CallPool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    done: list[int] = []
    go = threading.Event()
    pool.submit(go.wait, 60)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_more)
        for number in range(5):
            pool.submit(done.append, number)
    assert "no thread for another call" in caplog.text
    go.set()
    until(lambda: done == [0, 1, 2, 3, 4])


def _no_more(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


def test_aside_places_are_counted_and_given_back() -> None:
    pool, go = AsidePool(2, 2, "test-aside"), threading.Event()
    for _ in range(2):
        assert not pool.full()
        pool.submit(go.wait, 60)
    assert (pool.full(), pool.count()) == (True, 2)
    go.set()
    until(lambda: not pool.count())
    assert not pool.full()
    pool.shutdown()


def test_at_once_is_at_once_and_in_no_thread() -> None:
    where: list[int] = []
    ending, told = AtOnce().submit(lambda: where.append(threading.get_ident())), list[object]()
    assert where == [threading.get_ident()]
    ending.add_done_callback(told.append)
    assert told == [ending]
