"""Word of each jump of the wall clock, and none of its drift."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from meshpki.runtime.clock_watch import TOLERANCE_SECONDS, ClockWatch


@dataclass
class Clocks:
    wall: float = 1_800_000_000.0
    monotonic: float = 1000.0

    def watch(self) -> ClockWatch:
        return ClockWatch(lambda: self.wall, monotonic=lambda: self.monotonic)

    def run(self, seconds: float, *, drift: float = 0.0) -> None:
        self.monotonic += seconds
        self.wall += seconds + drift


@pytest.mark.parametrize("seconds", [600.0, -600.0, 1.5, -1.5, 86_400.0])
def test_a_jump_is_told_once(seconds: float) -> None:
    async def scene() -> None:
        clocks = Clocks()
        watch = clocks.watch()
        told = watch.jumps()
        clocks.run(30)
        watch.look()
        assert not told.done()
        clocks.wall += seconds
        watch.look()
        assert told.done()
        again = watch.jumps()
        clocks.run(30)
        watch.look()
        assert not again.done()

    asyncio.run(scene())


def test_drift_is_told_when_it_has_come_to_something() -> None:
    async def scene() -> None:
        clocks = Clocks()
        watch = clocks.watch()
        told = watch.jumps()
        looks = 0
        while not told.done():
            clocks.run(30, drift=0.015)  # 500 ppm, as fast as a clock is ever slewed
            watch.look()
            looks += 1
        assert looks * 0.015 == pytest.approx(TOLERANCE_SECONDS, abs=0.03)

    asyncio.run(scene())
