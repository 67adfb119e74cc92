"""Turns at the CA: never more than allowed, in order, and neither lane starves."""

from __future__ import annotations

import asyncio
import random

import pytest

from meshpki.agent.node.turns import Lane, Turns


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Crowd:
    """Tasks that take a turn, say so, and hold it until told."""

    def __init__(self, at_once: int) -> None:
        self.turns = Turns(at_once)
        self.begun: list[str] = []
        self.most = 0
        self._holds: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, name: str, lane: Lane) -> None:
        self._holds[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._one(name, lane))

    async def _one(self, name: str, lane: Lane) -> None:
        async with self.turns.turn(lane):
            self.begun.append(name)
            self.most = max(self.most, self.turns.taken)
            await self._holds[name].wait()

    async def release(self, name: str) -> None:
        self._holds[name].set()
        await settle()


async def _one_after_another() -> None:
    crowd = Crowd(1)
    crowd.add("first", Lane.NEWCOMER)
    await settle()
    for name in ("n1", "n2", "n3", "n4"):
        crowd.add(name, Lane.NEWCOMER)
    for name in ("r1", "r2"):
        crowd.add(name, Lane.RENEWAL)
    await settle()
    assert crowd.begun == ["first"]
    assert crowd.turns.waiting == 6
    while len(crowd.begun) < 7:
        await crowd.release(crowd.begun[-1])
    assert crowd.begun == ["first", "r1", "n1", "r2", "n2", "n3", "n4"]
    await crowd.release("n4")
    assert (crowd.turns.taken, crowd.turns.waiting, crowd.most) == (0, 0, 1)


def test_lanes_alternate_and_each_is_in_order() -> None:
    asyncio.run(_one_after_another())


async def _cancelled_while_waiting() -> None:
    crowd = Crowd(1)
    for name in ("a", "b", "c"):
        crowd.add(name, Lane.RENEWAL)
    await settle()
    crowd.tasks["b"].cancel()
    await settle()
    await crowd.release("a")
    assert crowd.begun == ["a", "c"]


def test_who_left_is_passed_over() -> None:
    asyncio.run(_cancelled_while_waiting())


async def _cancelled_as_it_is_given() -> None:
    crowd = Crowd(1)
    for name in ("a", "b", "c"):
        crowd.add(name, Lane.RENEWAL)
    await settle()
    crowd._holds["a"].set()
    while crowd.turns.taken:  # until `a` has handed its turn to `b`, which has not run yet
        await asyncio.sleep(0)
    crowd.tasks["b"].cancel()
    await settle()
    assert crowd.begun == ["a", "c"]
    await crowd.release("c")
    assert crowd.turns.taken == 0
    crowd.add("d", Lane.NEWCOMER)
    await settle()
    assert crowd.begun[-1] == "d"


def test_a_turn_given_to_one_who_just_left_is_not_lost() -> None:
    asyncio.run(_cancelled_as_it_is_given())


async def _storm(seed: int) -> None:
    draw = random.Random(seed)
    turns, most, done = Turns(4), 0, 0

    async def one() -> None:
        nonlocal most, done
        for _ in range(draw.randrange(3)):
            await asyncio.sleep(0)
        async with turns.turn(draw.choice(list(Lane))):
            most = max(most, turns.taken)
            for _ in range(draw.randrange(5)):
                await asyncio.sleep(0)
            done += 1

    tasks = [asyncio.create_task(one()) for _ in range(200)]
    cancelled = draw.sample(tasks, 60)
    while not all(task.done() for task in tasks):
        await asyncio.sleep(0)
        if cancelled and draw.random() < 0.5:
            cancelled.pop().cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert most <= 4
    assert done >= 140
    assert (turns.taken, turns.waiting) == (0, 0)
    hold = asyncio.Event()

    async def keep() -> None:
        async with turns.turn(Lane.RENEWAL):
            await hold.wait()

    async with asyncio.TaskGroup() as group:
        for _ in range(6):
            group.create_task(keep())
        await settle()
        assert (turns.taken, turns.waiting) == (4, 2)  # all four are back, and no more than those
        hold.set()


@pytest.mark.parametrize("seed", range(10))
def test_in_a_storm_of_cancellations_no_turn_is_lost_or_doubled(seed: int) -> None:
    asyncio.run(_storm(seed))
