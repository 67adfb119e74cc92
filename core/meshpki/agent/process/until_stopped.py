"""What both modes of the agent do as processes: work until a signal says stop, or until a part of them fails."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Work = Coroutine[None, None, None]


log = logging.getLogger(__name__)


def serve_until_signal(serve: Callable[[asyncio.Event], Work]) -> None:
    """Run `serve` in an event loop of its own; the event that it gets is set at SIGTERM or SIGINT."""

    async def main() -> None:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        await serve(stopping)

    asyncio.run(main())


async def until_stopped(stopping: asyncio.Event, *works: Work) -> None:
    """Let all of it work until `stopping` is set; raises what the first of them raises. Afterwards none works on.

    They are cancelled in the order in which they were given.
    """
    tasks = [asyncio.create_task(work) for work in works]
    stop = asyncio.create_task(stopping.wait())
    try:
        done, _ = await asyncio.wait([stop, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done & set(tasks):
            task.result()
    finally:
        log.info("stopping")
        for task in (stop, *tasks):
            task.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
