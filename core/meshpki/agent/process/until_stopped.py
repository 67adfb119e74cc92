"""What both modes of the agent do as processes: work until a signal says stop, or until a part of them fails."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

from meshpki.runtime.hangup import Hangup, meaning

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    Work = Coroutine[None, None, None]


log = logging.getLogger(__name__)


def serve_until_signal(serve: Callable[[asyncio.Event], Work], look: Callable[[], object]) -> None:
    """Run `serve` in an event loop of its own; the event that it gets is set at SIGTERM, at SIGINT, and at the end of
    the terminal. Without a terminal SIGHUP has it `look` at its files.
    """

    async def main() -> None:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        match meaning():
            case Hangup.STOP:
                loop.add_signal_handler(signal.SIGHUP, stopping.set)
            case Hangup.LOOK:
                loop.add_signal_handler(signal.SIGHUP, _look, look)
        await serve(stopping)

    asyncio.run(main())


def _look(look: Callable[[], object]) -> None:
    log.info("SIGHUP: the files that are followed are looked at now; options are read at a start only")
    look()


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
