from __future__ import annotations

import asyncio
import os
import signal

import pytest

from meshpki.agent.process.until_stopped import serve_until_signal, until_stopped
from meshpki.errors import MachineError


async def for_ever(ended: list[str], name: str) -> None:
    try:
        await asyncio.get_running_loop().create_future()
    finally:
        ended.append(name)
        await asyncio.sleep(0.01)
        ended.append(f"{name} wholly")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all_of_it_in_order_and_waits_for_it(number: signal.Signals) -> None:
    ended: list[str] = []

    async def send() -> None:
        await asyncio.sleep(0)
        os.kill(os.getpid(), number)
        await asyncio.get_running_loop().create_future()

    async def serve(stopping: asyncio.Event) -> None:
        await until_stopped(stopping, for_ever(ended, "a"), for_ever(ended, "b"), send())

    serve_until_signal(serve, lambda: None)
    assert ended == ["a", "b", "a wholly", "b wholly"]


def test_what_one_of_them_raises_ends_the_others() -> None:
    ended: list[str] = []

    async def fail() -> None:
        await asyncio.sleep(0)
        raise MachineError("the port is taken")

    async def serve(stopping: asyncio.Event) -> None:
        await until_stopped(stopping, for_ever(ended, "a"), fail())

    with pytest.raises(MachineError, match="taken"):
        serve_until_signal(serve, lambda: None)
    assert ended == ["a", "a wholly"]
