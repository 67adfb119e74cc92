"""A bare wake-up inside one event loop: everybody who waits is woken, and nothing is queued."""

from __future__ import annotations

import asyncio


class Signal:
    """Wakes everybody who waits. Who comes later waits for the next time."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    def next(self) -> asyncio.Future[None]:
        """Get a future that is done at the next `wake`.

        Take it first, and look at what it is about afterwards. It is shared: give it to `asyncio.wait`, which cancels
        nothing, or shield it.
        """
        if self._next is None or self._next.cancelled():
            self._next = asyncio.get_running_loop().create_future()
        return self._next

    def wake(self) -> None:
        """Wake them."""
        if self._next is not None:
            done, self._next = self._next, None
            if not done.done():
                done.set_result(None)
