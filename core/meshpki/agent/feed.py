"""The snapshot being served, and how the faces learn of the next one: within one event loop."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshpki.agent.resources import Resources


class FeedClosedError(Exception):
    """The agent is shutting down; internal to the agent."""


class Feed:
    """Holds the newest resources. A reader that was slow sees the newest only, never a queue of old ones."""

    def __init__(self, resources: Resources) -> None:
        self._resources = resources
        self._changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._closed = False

    @property
    def current(self) -> Resources:
        """What to serve now."""
        return self._resources

    @property
    def closed(self) -> bool:
        """Whether the agent is shutting down."""
        return self._closed

    def publish(self, resources: Resources) -> None:
        """Replace what is served, and wake every reader."""
        self._resources = resources
        self._wake()

    def close(self) -> None:
        """Tell every reader to end its stream."""
        self._closed = True
        self._wake()

    def changes(self) -> asyncio.Future[None]:
        """Get a future that is done at the next `publish` or `close`. Take it before looking at `current`."""
        return self._changed

    def _wake(self) -> None:
        done, self._changed = self._changed, asyncio.get_running_loop().create_future()
        done.set_result(None)
