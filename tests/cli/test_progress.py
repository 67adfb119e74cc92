"""Progress that is only told when something takes long."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from meshpki_cli import progress


def test_what_is_over_soon_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.patient(60) as tell:
        tell("step 1: this")
    assert capsys.readouterr() == ("", "")


def test_what_takes_long_tells_its_step_and_all_that_follows(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = threading.Event()
    plain = progress._plain_line

    def seen(line: str) -> None:
        plain(line)
        shown.set()

    monkeypatch.setattr(progress, "_plain_line", seen)
    with progress.patient(0.01) as tell:
        tell("step 1: this")
        assert shown.wait(60)
        tell("half of it")
        tell("step 2: that")
    assert capsys.readouterr() == ("", "step 1: this\nhalf of it\nstep 2: that\n")


def test_what_was_told_of_the_step_in_hand_is_told_with_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rings: list[Callable[[], None]] = []

    class Timer(threading.Timer):
        """Rings when the test says so."""

        def start(self) -> None:
            rings.append(self.function)

        def join(self, timeout: float | None = None) -> None:
            pass

    monkeypatch.setattr(threading, "Timer", Timer)
    with progress.patient() as tell:
        for line in ("step 1: this", "half of it", "step 2: that", "a quarter", "a third"):
            tell(line)
        rings[0]()
    assert capsys.readouterr() == ("", "step 2: that\na third\n")


def test_an_error_passes_and_no_thread_stays() -> None:
    before = set(threading.enumerate())
    with pytest.raises(KeyError), progress.patient(60):
        raise KeyError
    new = set(threading.enumerate()) - before
    assert not [thread for thread in new if isinstance(thread, threading.Timer)]
