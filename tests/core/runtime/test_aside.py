"""Work aside: its result, its error, and a signal that ends the wait and not the work."""

from __future__ import annotations

import signal
import threading

import pytest

from meshpki.runtime.aside import aside


def test_what_it_gives_is_given() -> None:
    assert aside(lambda given_up: (threading.current_thread().name, given_up.is_set())) == ("aside", False)


def test_what_it_raises_is_raised() -> None:
    def work(given_up: threading.Event) -> None:
        raise LookupError(given_up.is_set())

    with pytest.raises(LookupError, match="False"):
        aside(work)


def test_a_signal_ends_the_wait_and_the_work_hears_of_it() -> None:
    heard: list[bool] = []

    def work(given_up: threading.Event) -> None:
        signal.raise_signal(signal.SIGINT)
        heard.append(given_up.wait(60))

    with pytest.raises(KeyboardInterrupt):
        aside(work)
    assert heard == [True]


def test_work_that_does_not_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshpki.runtime.aside._LEAVE_SECONDS", 0.01)
    go, ended = threading.Event(), threading.Event()

    def work(_given_up: threading.Event) -> None:
        signal.raise_signal(signal.SIGINT)
        go.wait(60)
        ended.set()

    with pytest.raises(KeyboardInterrupt):
        aside(work)
    assert not ended.is_set()
    go.set()
    assert ended.wait(60)


def test_work_inside_of_work_is_done() -> None:
    assert aside(lambda _: aside(lambda _: 1) + 1) == 2
