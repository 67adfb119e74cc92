from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

import pytest

from meshpki.runtime import repeats
from meshpki.runtime.repeats import Repeats

log = logging.getLogger("test.repeats")
SHORT = 0.05


def warnings(caplog: pytest.LogCaptureFixture) -> list[tuple[str, int]]:
    """Message and number of every warning so far."""
    said = [record for record in caplog.records if record.levelno == logging.WARNING]
    return [(record.getMessage(), vars(record).get("times", 1)) for record in said]


def play(scene: Callable[[Repeats], Awaitable[None]], seconds: float = SHORT) -> None:
    async def main() -> None:
        await scene(Repeats(log, "refused", seconds=seconds))

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.005)


def test_the_first_is_said_the_others_are_counted_and_silence_makes_it_new(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(refused: Repeats) -> None:
        for number in range(100):
            refused.say("expired", {"reason": "expired", "number": number})
        assert warnings(caplog) == [("refused", 1)]
        await until(lambda: len(warnings(caplog)) == 2)
        assert warnings(caplog)[1] == ("refused, again and again; this is the last of them", 99)
        assert (vars(caplog.records[-1])["reason"], vars(caplog.records[-1])["number"]) == ("expired", 99)
        await until(lambda: not refused._kinds)
        assert len(warnings(caplog)) == 2, "nothing more to sum up"
        refused.say("expired", {})
        assert warnings(caplog)[2:] == [("refused", 1)]

    play(scene)


def test_each_kind_is_said_for_itself_up_to_a_number_of_kinds(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(refused: Repeats) -> None:
        for number in range(10 * repeats.MOST_KINDS):
            refused.say(f"a name that a caller made up {number}", {})
        assert len(warnings(caplog)) == repeats.MOST_KINDS + 1

    play(scene, 60)


def test_level_and_number_of_kinds_can_be_said(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        refused = Repeats(log, "refused", seconds=SHORT, most_kinds=2, level=logging.ERROR)
        for number in range(9):
            refused.say(str(number), {"number": number})
        await until(lambda: len(caplog.records) >= 4)

    with caplog.at_level(logging.INFO, log.name):
        asyncio.run(asyncio.wait_for(main(), 60))
    assert {record.levelno for record in caplog.records} == {logging.ERROR}
    assert [vars(record)["number"] for record in caplog.records[:3]] == [0, 1, 2]
    assert (vars(caplog.records[3])["number"], vars(caplog.records[3])["times"]) == (8, 6)


def test_at_debug_level_every_one_is_there(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(refused: Repeats) -> None:
        for _ in range(5):
            refused.say("expired", {})

    with caplog.at_level(logging.DEBUG, log.name):
        play(scene, 60)
    assert len([record for record in caplog.records if record.name == log.name]) == 5
