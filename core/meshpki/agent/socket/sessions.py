"""Whose identity a stream on our socket gets: each stream opens a session, and the session has its feed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

import grpc

from meshpki.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from meshpki.agent.rotation.feed import Feed

Metadata: TypeAlias = "Sequence[tuple[str, str | bytes]]"
"""The headers of a call, names in lower case; values of names in `-bin` are bytes."""

MOST_STREAMS: Final = 2048
"""Of one workload, in pod mode: four for each of its connections. All are its own, so this keeps nobody from others'
share. It is for the workload that opens streams and forgets them: the agent would grow with it, by 5 KiB for each
(measured).
"""


class CallRefusedError(RefusedError):
    """A call on our socket is refused with this gRPC status. Its words go to the client: nothing of others in them.

    `reason` is for our log alone: one word that scripts can compare.
    """

    def __init__(
        self, status: grpc.StatusCode, seen: str, *, wanted: str = "", todo: str = "", reason: str = ""
    ) -> None:
        super().__init__(seen, wanted=wanted, todo=todo)
        self.status = status
        self.reason = reason


class Session(Protocol):
    """What one stream is served from, until `close`."""

    @property
    def feed(self) -> Feed:
        """The snapshots of the one identity that this stream may see."""
        ...

    @property
    def must_reconnect(self) -> asyncio.Future[None]:
        """Done when the client is to come back with a fresh token: end the stream with status OK.

        Shared by nobody, but to be given to `asyncio.wait` only, which cancels nothing.
        """
        ...

    def close(self) -> None:
        """The stream has ended, however. Called once."""
        ...


class Sessions(Protocol):
    """Decides for each call which identity it is served."""

    async def open(self, metadata: Metadata) -> Session:
        """Give the caller its session; may wait for a first certificate. Raises CallRefusedError."""
        ...

    def close(self) -> None:
        """The agent is going: close every feed, so that streams end with status OK."""
        ...


class OneIdentity:
    """Pod mode: whoever can reach the socket is the one workload that it is for."""

    def __init__(self, feed: Feed, *, most: int = MOST_STREAMS) -> None:
        """Serve so many streams at a time."""
        self._feed = feed
        self._most = most
        self._open: set[_OneSession] = set()

    async def open(self, metadata: Metadata) -> Session:  # noqa: ARG002 - nobody has to say who it is
        """Give the one feed."""
        if len(self._open) >= self._most:
            raise CallRefusedError(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{self._most} streams are open on this socket, which is as many as there may be",
                todo="close those that nobody reads: each of a workload's processes needs one or two",
            )
        session = _OneSession(self._feed, self._open.discard)
        self._open.add(session)
        return session

    def close(self) -> None:
        """Close the feed."""
        self._feed.close()


class _OneSession:
    def __init__(self, feed: Feed, left: Callable[[_OneSession], object]) -> None:
        self._feed = feed
        self._left = left
        self._never: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def feed(self) -> Feed:
        return self._feed

    @property
    def must_reconnect(self) -> asyncio.Future[None]:
        return self._never

    def close(self) -> None:
        self._never.cancel()
        self._left(self)
