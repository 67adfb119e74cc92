"""Work that no signal may cut short: a library that keeps its own books bears no exception in the middle of them.

Python's handlers run in the main thread, between any two instructions of it. So the work is done in another one.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
_HEED_SECONDS: Final = 0.2
"""A signal may have come to another thread: whoever waits without end would never handle it."""
_LEAVE_SECONDS: Final = 2.0


def aside(work: Callable[[threading.Event], _Result]) -> _Result:
    """Give what `work` gives, or raise what it raises. Whatever a handler raises meanwhile is raised at once.

    `work` gets an event that says that nobody waits any longer. Then it should end, which is waited for, not for long.
    """
    given_up, answer = threading.Event(), Future[_Result]()

    def do() -> None:
        try:
            answer.set_result(work(given_up))
        except BaseException as error:  # noqa: BLE001 - it is raised where it is waited for
            answer.set_exception(error)

    thread = threading.Thread(target=do, name="aside", daemon=True)
    thread.start()
    try:
        while not wait([answer], _HEED_SECONDS).done:
            """Heed signals."""
        return answer.result()
    finally:
        given_up.set()
        thread.join(_LEAVE_SECONDS)
