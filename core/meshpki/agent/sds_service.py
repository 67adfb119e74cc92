"""Secret discovery on the agent's socket: Envoy's streams and fetches, driven by the pure logic of each method."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc

from meshpki.agent.resources import resources_of, with_files
from meshpki.agent.sds import SdsStream
from meshpki.agent.sds_delta import DeltaStream
from meshpki.agent.sds_fetch import fetch
from meshpki.agent.sds_node import validation_of
from meshpki.agent.sds_rules import MAX_NAMES
from meshpki.agent.sessions import CallRefusedError
from meshpki.agent.socket_server import Kind, Method
from meshpki.wire import methods
from meshpki.wire.sds_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from meshpki.agent.resources import Resource, Resources
    from meshpki.agent.sds_files import FileView, SecretFiles
    from meshpki.agent.sessions import Session
    from meshpki.agent.snapshot import Snapshot
    from meshpki.agent.socket_server import Context

log = logging.getLogger(__name__)

Request: TypeAlias = DiscoveryRequest | DeltaDiscoveryRequest
Response: TypeAlias = DiscoveryResponse | DeltaDiscoveryResponse
Waited: TypeAlias = "asyncio.Future[Request | None] | asyncio.Future[None]"


class Stream(Protocol):
    """What `SdsStream` and `DeltaStream` have in common."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names subscribed to."""
        ...

    def request(self, request: Any) -> Response | None:  # Any: each takes its own message
        """Take a request."""
        ...

    def update(self, resources: Resources) -> Response | None:
        """Take new resources."""
        ...


def sds_methods(files: SecretFiles | None = None) -> tuple[Method, ...]:
    """Give the rows of this face for the socket's table. Without `files`, names of files are unknown names."""
    return (
        Method(
            methods.STREAM_SECRETS,
            Kind.STREAM,
            partial(_serve, SdsStream, files),
            decode=DiscoveryRequest.FromString,
            encode=DiscoveryResponse.SerializeToString,
        ),
        Method(
            methods.DELTA_SECRETS,
            Kind.STREAM,
            partial(_serve, DeltaStream, files),
            decode=DeltaDiscoveryRequest.FromString,
            encode=DeltaDiscoveryResponse.SerializeToString,
        ),
        Method(
            methods.FETCH_SECRETS,
            Kind.UNARY,
            partial(_fetch, files),
            decode=DiscoveryRequest.FromString,
            encode=DiscoveryResponse.SerializeToString,
        ),
    )


async def _fetch(
    files: SecretFiles | None, session: Session, request: DiscoveryRequest, _: Context
) -> DiscoveryResponse:
    source = _Source(session, files, request)
    with source.following():
        await source.want(request.resource_names)
        return fetch(request, source.resources())


async def _serve(
    logic: Callable[[Resources], Stream], files: SecretFiles | None, session: Session, _: None, context: Context
) -> None:
    """Serve one stream, from its first request on: nothing is said before it is known who asks, and nothing before
    there is a certificate.
    """
    reading = asyncio.create_task(_read(context))
    try:
        first = await _until(session, reading)
        if first is not None and await _first_snapshot(session):
            source = _Source(session, files, first)
            with source.following():
                await _drive(logic(source.resources()), source, first, context)
    finally:
        reading.cancel()


async def _drive(stream: Stream, source: _Source, first: Request, context: Context) -> None:
    """Give the logic whichever comes first: a request, or something new to serve."""
    request: Request | None = first
    reading = asyncio.create_task(_read(context))
    try:
        while not source.ended:
            changes = source.changes()  # taken before looking, so that nothing is missed
            if request is not None:
                await source.want((*stream.names, *_asked_for(request)))
            await _send(context, stream.update(source.resources()))
            if request is not None:
                await _send(context, stream.request(request))
                await source.want(stream.names)
                request = None
            waiting: set[Waited] = {reading, *changes}
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                request = reading.result()
                if request is None:
                    return
                reading = asyncio.create_task(_read(context))
    finally:
        reading.cancel()


class _Source:
    """What one stream is served from: its identity's feed, in the form that its node wants, and the files it names."""

    def __init__(self, session: Session, files: SecretFiles | None, first: Request) -> None:
        self._session = session
        self._files = files
        self._view: FileView | None = None
        self._validation = validation_of(first.node)
        self._made: tuple[Snapshot, Mapping[str, Resource], Resources] | None = None

    @property
    def ended(self) -> bool:
        return _ended(self._session)

    @contextlib.contextmanager
    def following(self) -> Iterator[None]:
        """Follow the files that are wanted, inside."""
        with self._files.open() if self._files is not None else contextlib.nullcontext() as self._view:
            yield

    async def want(self, names: Iterable[str]) -> None:
        if self._view is not None:
            await self._view.want(names)

    def resources(self) -> Resources:
        """What there is now. Raises CallRefusedError before the first certificate."""
        snapshot = self._session.feed.current
        if snapshot is None:
            raise CallRefusedError(grpc.StatusCode.UNAVAILABLE, "there is no certificate yet", todo="ask again")
        files = self._view.current if self._view is not None else {}
        if self._made is None or self._made[0] is not snapshot or self._made[1] != files:
            self._made = snapshot, files, with_files(resources_of(snapshot, self._validation), files)
        return self._made[2]

    def changes(self) -> set[asyncio.Future[None]]:
        """Futures of which one is done when `resources` may be others, or the stream must end."""
        found = {self._session.feed.changes(), self._session.must_reconnect}
        return found if self._view is None else found | {self._view.changes()}


def _ended(session: Session) -> bool:
    return session.feed.closed or session.must_reconnect.done()


async def _until(session: Session, reading: asyncio.Task[Request | None]) -> Request | None:
    """Wait for the first request; None when the stream ends without one."""
    while not _ended(session):
        changed = session.feed.changes()
        waiting: set[Waited] = {reading, changed, session.must_reconnect}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return reading.result()
    return None


async def _first_snapshot(session: Session) -> bool:
    """Wait until there is something to serve; False when the stream has to end before."""
    while session.feed.current is None and not _ended(session):
        changed = session.feed.changes()
        if session.feed.current is None:
            await asyncio.wait({changed, session.must_reconnect}, return_when=asyncio.FIRST_COMPLETED)
    return session.feed.current is not None


def _asked_for(request: Request) -> tuple[str, ...]:
    """The names in a request, as far as a stream may have them: with more, the logic is going to refuse it."""
    named = request.resource_names if isinstance(request, DiscoveryRequest) else request.resource_names_subscribe
    return tuple(named[:MAX_NAMES])


async def _read(context: Context) -> Request | None:
    """Wait for the client's next request; None once it sends no more."""
    request: object = await context.read()
    return request if isinstance(request, DiscoveryRequest | DeltaDiscoveryRequest) else None


async def _send(context: Context, response: Response | None) -> None:
    if response is not None:
        await context.write(response)
        log.debug("sent", extra={"nonce": response.nonce, "secrets": len(response.resources)})
