"""Wait for signals, whichever thread of the process the kernel gives them to."""

from __future__ import annotations

import contextlib
import signal
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextlib.contextmanager
def heard(*numbers: signal.Signals) -> Iterator[Callable[[], int]]:
    """Hear these from here on; the block gets what waits for the next of them and says which. For the main thread.

    Handlers run in the main thread, and what it waits for has to end for that. A lock does not: the kernel gives a
    signal to another thread when the main one stands still (SIGSTOP) or has one to look at already, and then the main
    thread would sleep on. What Python writes to a descriptor wakes it from any thread.

    The handlers stay: one that comes again while the process ends changes nothing.
    """
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)
        for number in numbers:
            signal.signal(number, lambda *_: None)
        waker = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def following() -> int:
            while (number := reader.recv(1)[0]) not in numbers:
                pass
            return number

        try:
            yield following
        finally:
            signal.set_wakeup_fd(waker)
