"""Batches: who is in which, in what order, and what a broken one does to the next."""

from __future__ import annotations

import logging
import threading
import time
import weakref
from typing import TYPE_CHECKING

from meshpki.ca.server.calls.batches import Batches

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


class Work:
    """Keeps what it was given, by whom; it waits until it is let go."""

    def __init__(self) -> None:
        self.batches: list[list[object]] = []
        self.threads: set[int] = set()
        self.go = threading.Event()
        self.began = threading.Event()

    def __call__(self, items: list[object]) -> None:
        self.batches.append(list(items))
        self.threads.add(threading.get_ident())
        self.began.set()
        assert self.go.wait(60)
        if "broken" in items:
            raise ZeroDivisionError
        if "ended" in items:
            raise SystemExit


def test_those_who_come_meanwhile_share_the_next_batch_in_the_order_of_arrival() -> None:
    work = Work()
    batches: Batches[object] = Batches(work)
    batches.start()
    batches.put(0, 1)
    assert work.began.wait(60)
    for items in ((5,), (3, 8), (1,)):
        batches.put(*items)
    work.go.set()
    until(lambda: len(work.batches) == 2)
    assert work.batches == [[0, 1], [5, 3, 8, 1]]
    assert len(work.threads) == 1
    assert threading.get_ident() not in work.threads
    batches.stop()


def test_what_was_there_before_the_end_is_done_and_then_the_thread_is_gone() -> None:
    work = Work()
    work.go.set()
    batches: Batches[object] = Batches(work)
    for number in range(100):
        batches.put(number)
    batches.stop()
    batches.start()
    until(lambda: not batches._thread.is_alive())
    assert [item for batch in work.batches for item in batch] == list(range(100))


def test_a_broken_batch_is_logged_and_breaks_no_other(caplog: pytest.LogCaptureFixture) -> None:
    work = Work()
    work.go.set()
    batches: Batches[object] = Batches(work)
    batches.start()
    for number, error in enumerate(("broken", "ended")):
        batches.put(error)
        until(lambda number=number: len(caplog.records) > number)  # type: ignore[misc]
    batches.put("good")
    until(lambda: ["good"] in work.batches)
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    batches.stop()


class Content:
    """Something that can be watched going away."""


def test_a_thread_that_waits_holds_on_to_nothing() -> None:
    batches: Batches[object] = Batches(lambda batch: None)
    batches.start()
    content = Content()
    gone = weakref.ref(content)
    batches.put(content)
    del content
    until(lambda: gone() is None)
    batches.stop()


def test_many_threads_bring_what_they_have_and_all_of_it_is_worked_on_once() -> None:
    work = Work()
    work.go.set()
    batches: Batches[object] = Batches(work)
    batches.start()

    def bring(base: int) -> None:
        for number in range(100):
            batches.put(base + number)

    threads = [threading.Thread(target=bring, args=(1000 * index,)) for index in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    batches.stop()
    until(lambda: not batches._thread.is_alive())
    done = [item for batch in work.batches for item in batch if isinstance(item, int)]
    assert sorted(done) == sorted(1000 * index + number for index in range(16) for number in range(100))
    for index in range(16):
        assert [item for item in done if item // 1000 == index] == [1000 * index + number for number in range(100)]
