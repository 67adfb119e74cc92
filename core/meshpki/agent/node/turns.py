"""Whose turn it is to ask the CA: so many at once, first come first served, and no lane starves the other."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Lane(StrEnum):
    """Who waits. While both wait they take turns, so a flood of newcomers at most halves the pace of renewals."""

    RENEWAL = "renewal"
    """An identity that the CA has accepted before: it renews, or says which roots it serves."""
    NEWCOMER = "newcomer"
    """A token that the CA has not seen from us, true or forged."""


class Turns:
    """Hands out at most `at_once` turns at a time, within one event loop."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._queues: dict[Lane, deque[asyncio.Future[None]]] = {lane: deque() for lane in Lane}
        self._next = Lane.RENEWAL
        self.taken = 0
        """Turns in use now."""

    @property
    def waiting(self) -> int:
        """How many wait for a turn."""
        return sum(not future.done() for queue in self._queues.values() for future in queue)

    @asynccontextmanager
    async def turn(self, lane: Lane) -> AsyncIterator[None]:
        """Wait for a turn, and have it until the block ends."""
        await self._take(lane)
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1
            self._give_back()

    async def _take(self, lane: Lane) -> None:
        if self._free:  # then nobody waits, for a turn given back goes to whoever does
            self._free -= 1
            return
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queues[lane].append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():  # given to us in the very moment in which we left
                self._give_back()
            raise

    def _give_back(self) -> None:
        for lane in (self._next, _other(self._next)):
            queue = self._queues[lane]
            while queue:
                waiter = queue.popleft()
                if not waiter.done():
                    self._next = _other(lane)
                    waiter.set_result(None)
                    return
        self._free += 1


def _other(lane: Lane) -> Lane:
    return Lane.NEWCOMER if lane is Lane.RENEWAL else Lane.RENEWAL
