"""Batches: who leads, who waits, for how long, and what a broken batch does to whom."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from meshpki.ca.server import batches
from meshpki.ca.server.batches import Batches, BatchFailedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Work:
    """Keeps what it was given, by whom; the first batch waits until it is let go."""

    def __init__(self, *, held: bool = False) -> None:
        self.batches: list[list[int]] = []
        self.threads: list[int] = []
        self.go = threading.Event()
        self.began = threading.Event()
        if not held:
            self.go.set()

    def __call__(self, items: list[int]) -> None:
        self.batches.append(list(items))
        self.threads.append(threading.get_ident())
        self.began.set()
        assert self.go.wait(20)


def start(targets: Sequence[Callable[[], object]]) -> list[threading.Thread]:
    threads = [threading.Thread(target=target) for target in targets]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.002)


def queue_behind(shared: Batches[int], work: Work, items: Sequence[int]) -> list[threading.Thread]:
    """Item 0 is being worked on, and `items` wait in this order."""
    threads = start([lambda: shared.run(0)])
    assert work.began.wait(20)
    for number, item in enumerate(items, start=1):
        threads += start([lambda item=item: shared.run(item)])  # type: ignore[misc]
        until(lambda number=number: len(shared._queue) == number)  # type: ignore[misc]
    return threads


def test_a_call_that_is_alone_works_in_its_own_thread_and_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 20.0)
    work = Work()
    shared = Batches(work)
    began = time.monotonic()
    for number in range(100):
        shared.run(number)
    assert time.monotonic() - began < 10
    assert work.batches == [[number] for number in range(100)]
    assert set(work.threads) == {threading.get_ident()}


def test_those_who_come_meanwhile_share_the_next_batch_in_the_order_of_arrival() -> None:
    work = Work(held=True)
    shared = Batches(work)
    threads = queue_behind(shared, work, [5, 3, 8, 1])
    work.go.set()
    join(threads)
    assert work.batches == [[0], [5, 3, 8, 1]]


def test_after_a_large_batch_the_next_waits_for_as_many_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "GATHER_SECONDS", 20.0)
    work = Work(held=True)
    shared = Batches(work)
    threads = queue_behind(shared, work, range(1, 8))
    work.go.set()
    join(threads[:1])  # 0 was answered: of the eight, one is missing
    assert work.batches == [[0]]
    began = time.monotonic()
    shared.run(8)
    join(threads)
    assert time.monotonic() - began < 10
    assert work.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]


def test_nobody_waits_for_ever_for_those_who_do_not_come_again() -> None:
    work = Work(held=True)
    shared = Batches(work)
    threads = queue_behind(shared, work, range(1, 8))
    work.go.set()
    join(threads)
    shared.run(9)
    assert work.batches[1:] == [[1, 2, 3, 4, 5, 6, 7], [9]]
    began = time.monotonic()
    shared.run(10)  # the last had one: no gathering at all
    assert time.monotonic() - began < 1


def test_many_threads_and_every_item_is_worked_on_once() -> None:
    work = Work()

    def slow(items: list[int]) -> None:
        work(items)
        time.sleep(0.0005)

    shared = Batches(slow)

    def bring(base: int) -> None:
        for number in range(100):
            shared.run(base + number)
            assert any(base + number in batch for batch in work.batches[-20:])

    join(start([lambda index=index: bring(1000 * index) for index in range(16)]))  # type: ignore[misc]
    done = [item for batch in work.batches for item in batch]
    assert sorted(done) == sorted(1000 * index + number for index in range(16) for number in range(100))
    assert len(work.batches) < 800


@pytest.mark.parametrize("broken", [ZeroDivisionError("ours"), SystemExit(3)])
def test_work_that_breaks_fails_its_batch_and_no_other(broken: BaseException) -> None:
    work = Work(held=True)

    def breaking(items: list[int]) -> None:
        work(items)
        if 2 in items:
            raise broken

    shared = Batches(breaking)
    outcomes: dict[int, BaseException | None] = {}

    def bring(item: int) -> None:
        try:
            shared.run(item)
        except BaseException as error:
            outcomes[item] = error
        else:
            outcomes[item] = None

    threads = start([lambda: bring(0)])
    assert work.began.wait(20)
    for item in (1, 2, 3):
        threads += start([lambda item=item: bring(item)])  # type: ignore[misc]
        until(lambda item=item: len(shared._queue) == item)  # type: ignore[misc]
    work.go.set()
    join(threads)
    assert outcomes[0] is None
    assert outcomes[1] is broken  # it led
    for follower in (outcomes[2], outcomes[3]):
        assert isinstance(follower, BatchFailedError)
        assert type(broken).__name__ in str(follower)
        assert follower.__cause__ is follower.__context__ is None
    shared.run(4)
    assert work.batches[-1] == [4]
