"""Ctrl-C and the other signals that stop us: one exception for all of them, and none while tidying up."""

from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as SIGINT does, so that what was made is taken away."""
    with _handling(SIGNALS[1:], _interrupt):
        yield


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the signals that stop us wait until the block is done, and raise the first of them then.

    What the block finds out must be kept outside of it: its own `return` is lost when a signal came. In another thread
    than the main one none arrives.
    """
    held: list[int] = []
    try:
        with _handling(SIGNALS, lambda number, _frame: held.append(number)):
            yield
    finally:
        if held:
            signal.raise_signal(signal.Signals(held[0]))


@contextlib.contextmanager
def stopped_once() -> Iterator[None]:
    """Let the first signal that stops us raise KeyboardInterrupt, and none after it: what tidies up then is left alone.

    Whoever begins to tidy up by `uninterrupted` cannot do so before the next signal; this leaves no such moment.
    """
    stopped = False

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        nonlocal stopped
        if not stopped:
            stopped = True
            raise KeyboardInterrupt

    with _handling(SIGNALS, interrupt):
        yield


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handling(signals: tuple[signal.Signals, ...], handler: signal._HANDLER) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with contextlib.ExitStack() as put_back:  # each of them, whichever comes while another is put back
        for number in signals:
            before = signal.getsignal(number)
            # What whoever started us has ignored stays ignored (nohup); what is not Python's cannot be put back.
            if before is not None and before is not signal.SIG_IGN:
                put_back.callback(signal.signal, number, before)
                signal.signal(number, handler)
        yield
