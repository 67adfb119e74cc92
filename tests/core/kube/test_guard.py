"""What is held up past its deadline is cut, and nothing else."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from meshpki.kube import guard
from meshpki.kube.guard import Guarded, Watchdog

if TYPE_CHECKING:
    from collections.abc import Iterator

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(60)
        yield ours, theirs


def test_work_that_is_late_is_cut_where_it_hangs(pair: Pair) -> None:
    guarded = Guarded(time.monotonic() + 0.1)
    guarded.attach(pair[0])
    Watchdog().add(guarded)
    assert pair[0].recv(1) == b""
    assert guarded.is_over


def test_work_that_is_late_before_it_has_a_socket_is_cut_when_it_gets_one(pair: Pair) -> None:
    guarded = Guarded(0)
    guarded.fire()
    guarded.attach(pair[0])
    assert pair[0].recv(1) == b""


def test_a_socket_that_went_to_somebody_else_is_left_alone(pair: Pair) -> None:
    guarded = Guarded(0)
    guarded.attach(pair[0])
    guarded.done()
    guarded.fire()
    assert not guarded.is_over
    pair[1].sendall(b"x")
    assert pair[0].recv(1) == b"x"


def test_the_earliest_comes_first_whenever_it_was_added() -> None:
    now = time.monotonic()
    late, early = Guarded(now + 600), Guarded(now + 0.05)
    watchdog = Watchdog()
    watchdog.add(late)
    watchdog.add(early)
    _until(lambda: early.is_over)
    assert not late.is_over


def test_the_thread_ends_with_its_work_and_starts_again() -> None:
    before = set(threading.enumerate())
    watchdog = Watchdog()
    for _ in range(2):
        for _ in range(5):
            watchdog.add(Guarded(time.monotonic() + 0.02))
        _until(lambda: set(threading.enumerate()) <= before)


def test_a_block_knows_whether_it_was_late() -> None:
    with guard.until(time.monotonic() + 60) as guarded:
        pass
    assert not guarded.is_over
    with guard.until(time.monotonic() + 0.05) as guarded:
        _until(lambda: guarded.is_over)


def _until(condition: object) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)
