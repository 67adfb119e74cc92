"""Secret discovery on the agent's socket: Envoy's streams and fetches, driven by the pure logic of each method."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc

from meshpki.agent.sds.delta import DeltaStream
from meshpki.agent.sds.fetch import fetch
from meshpki.agent.sds.node import validation_of
from meshpki.agent.sds.remarks import RemarksByIdentity
from meshpki.agent.sds.resources import resources_of, with_files
from meshpki.agent.sds.rules import MAX_NAMES
from meshpki.agent.sds.stream import SdsStream
from meshpki.agent.socket.server import Kind, Method
from meshpki.agent.socket.sessions import CallRefusedError
from meshpki.agent.socket.shelf import Shelf
from meshpki.wire import methods
from meshpki.wire.sds_pb2 import (
    DeltaDiscoveryRequest,
    DeltaDiscoveryResponse,
    DiscoveryRequest,
    DiscoveryResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from meshpki.agent.sds.files import FileView, SecretFiles
    from meshpki.agent.sds.node import Validation
    from meshpki.agent.sds.resources import Resource, Resources
    from meshpki.agent.sds.rules import Remarks
    from meshpki.agent.socket.server import Call
    from meshpki.agent.socket.sessions import Session

log = logging.getLogger(__name__)

Request: TypeAlias = DiscoveryRequest | DeltaDiscoveryRequest
Response: TypeAlias = DiscoveryResponse | DeltaDiscoveryResponse
Forms: TypeAlias = "Shelf[Validation, Resources]"


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
    face = _Face(files, Shelf(resources_of), RemarksByIdentity())
    return (
        Method(
            methods.STREAM_SECRETS,
            Kind.STREAM,
            partial(_serve, SdsStream, face),
            decode=DiscoveryRequest.FromString,
            encode=DiscoveryResponse.SerializeToString,
        ),
        Method(
            methods.DELTA_SECRETS,
            Kind.STREAM,
            partial(_serve, DeltaStream, face),
            decode=DeltaDiscoveryRequest.FromString,
            encode=DeltaDiscoveryResponse.SerializeToString,
        ),
        Method(
            methods.FETCH_SECRETS,
            Kind.UNARY,
            partial(_fetch, face),
            decode=DiscoveryRequest.FromString,
            encode=DiscoveryResponse.SerializeToString,
            impatient=True,
        ),
    )


@dataclass(frozen=True, slots=True)
class _Face:
    """What all streams and fetches share."""

    files: SecretFiles | None
    forms: Forms
    remarks: RemarksByIdentity


async def _fetch(face: _Face, session: Session, request: DiscoveryRequest, _: Call) -> DiscoveryResponse:
    source = _Source(session, face, validation_of(request.node))
    try:
        await source.want(request.resource_names)
        return fetch(request, source.resources(), face.remarks.of(session.feed))
    finally:
        source.close()


async def _serve(
    logic: Callable[[Resources, Remarks], Stream], face: _Face, session: Session, _: None, call: Call
) -> None:
    """Serve one stream, from its first request on: nothing is said before it is known who asks, and nothing before
    there is a certificate.
    """
    conversation = _Conversation(session, call, partial(_begin, logic, face, session))
    try:
        await conversation.run()
    finally:
        await conversation.close()


def _begin(
    logic: Callable[[Resources, Remarks], Stream], face: _Face, session: Session, first: Request
) -> tuple[_Source, Stream]:
    source = _Source(session, face, validation_of(first.node))
    return source, logic(source.resources(), face.remarks.of(session.feed))


class _Conversation:
    """One stream: requests are read in the handler's own task, what is new goes out in a task that lasts for just that.

    A node's agent has thousands of streams that only wait. Such a one has no other task, waits for one thing, and keeps
    nothing of what it was asked.
    """

    __slots__ = (
        "_begin",
        "_call",
        "_closed",
        "_ending",
        "_fault",
        "_news",
        "_pushing",
        "_reader",
        "_session",
        "_source",
        "_stream",
        "_writing",
    )

    def __init__(self, session: Session, call: Call, begin: Callable[[Request], tuple[_Source, Stream]]) -> None:
        self._session = session
        self._call = call
        self._begin = begin
        self._source: _Source | None = None
        self._stream: Stream | None = None
        self._reader: asyncio.Task[object] | None = None
        self._pushing: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._news = False
        self._ending = False
        self._closed = False
        self._fault: BaseException | None = None

    async def run(self) -> None:
        """Serve until the client sends no more, or the session has to end."""
        self._follow_feed()
        self._session.must_reconnect.add_done_callback(self._changed)
        while self._fault is None and not _ended(self._session) and await self._next():
            pass
        if self._fault is not None:
            raise self._fault

    async def close(self) -> None:
        """Follow nothing any more. Callbacks of what happened in this very turn of the loop are still to come."""
        self._closed = True
        self._session.must_reconnect.remove_done_callback(self._changed)
        self._session.feed.changes().remove_done_callback(self._feed_changed)
        if self._source is not None:
            self._source.unfollow(self._files_changed)
            self._source.close()
        if self._pushing is not None:
            self._pushing.cancel()
            await asyncio.gather(self._pushing, return_exceptions=True)

    async def _next(self) -> bool:
        """Wait for a request and take it; False when there is to be no other."""
        self._reader = asyncio.current_task()
        try:
            request: object = await self._call.read()
        except asyncio.CancelledError:
            if self._ending and self._reader is not None and not self._reader.uncancel():
                return False
            raise  # it is the client, or its connection, that ends this call
        finally:
            self._reader = None
        if not isinstance(request, DiscoveryRequest | DeltaDiscoveryRequest):
            return False
        async with self._writing:
            await self._take(request)
        return True

    async def _take(self, request: Request) -> None:
        if self._source is None or self._stream is None:
            if not await _first_snapshot(self._session):
                return
            self._source, self._stream = self._begin(request)
            self._source.follow(self._files_changed)
        source, stream = self._source, self._stream
        await source.want((*stream.names, *_asked_for(request)))
        await _send(self._call, stream.update(source.resources()))
        await _send(self._call, stream.request(request))
        await source.want(stream.names)

    def _follow_feed(self) -> None:
        self._session.feed.changes().add_done_callback(self._feed_changed)

    def _feed_changed(self, _: asyncio.Future[None]) -> None:
        if not self._closed:
            self._follow_feed()  # before anything is looked at, so that nothing is missed
            self._changed(_)

    def _files_changed(self, _: asyncio.Future[None]) -> None:
        if not self._closed and self._source is not None:
            self._source.follow(self._files_changed)
            self._changed(_)

    def _changed(self, _: asyncio.Future[None]) -> None:
        if _ended(self._session):
            self._end()
        elif self._stream is not None:
            self._news = True
            self._push_news()

    def _push_news(self) -> None:
        if self._news and self._pushing is None and not self._closed:
            self._pushing = asyncio.create_task(self._push())
            self._pushing.add_done_callback(self._pushed)

    def _end(self) -> None:
        """Let the handler return, with status OK. While it does not read it looks by itself when it is done."""
        if self._reader is not None and not self._ending:
            self._ending = True
            self._reader.cancel()

    async def _push(self) -> None:
        """Send what is new, and what has become new meanwhile."""
        assert self._source is not None
        assert self._stream is not None
        while self._news:
            async with self._writing:
                self._news = False
                await _send(self._call, self._stream.update(self._source.resources()))

    def _pushed(self, task: asyncio.Task[None]) -> None:
        self._pushing = None
        if not task.cancelled() and task.exception() is not None:
            self._fault = task.exception()
            self._end()
        else:
            self._push_news()  # what came between the task's last look and this call


class _Source:
    """What one stream is served from: its identity's feed, in the form that its node wants, and the files it names."""

    __slots__ = ("_forms", "_session", "_validation", "_view", "_with_files")

    def __init__(self, session: Session, face: _Face, validation: Validation) -> None:
        self._session = session
        self._forms = face.forms
        self._validation = validation
        self._view: FileView | None = face.files.open() if face.files is not None else None
        self._with_files: tuple[Resources, Mapping[str, Resource], Resources] | None = None

    def close(self) -> None:
        """Follow the files no more."""
        if self._view is not None:
            self._view.close()

    async def want(self, names: Iterable[str]) -> None:
        """Follow the files among these names, and no others."""
        if self._view is not None:
            await self._view.want(names)

    def resources(self) -> Resources:
        """What there is now. Raises CallRefusedError before the first certificate."""
        feed = self._session.feed
        snapshot = feed.current
        if snapshot is None:
            raise CallRefusedError(grpc.StatusCode.UNAVAILABLE, "there is no certificate yet", todo="ask again")
        own = self._forms.get(feed, snapshot, self._validation)
        files = self._view.current if self._view is not None else {}
        if not files:
            return own
        if self._with_files is None or self._with_files[0] is not own or self._with_files[1] != files:
            self._with_files = own, files, with_files(own, files)
        return self._with_files[2]

    def follow(self, changed: Callable[[asyncio.Future[None]], None]) -> None:
        """Call back at the next change of the files."""
        if self._view is not None:
            self._view.changes().add_done_callback(changed)

    def unfollow(self, changed: Callable[[asyncio.Future[None]], None]) -> None:
        """Call back no more."""
        if self._view is not None:
            self._view.changes().remove_done_callback(changed)


def _ended(session: Session) -> bool:
    return session.feed.closed or session.must_reconnect.done()


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


async def _send(call: Call, response: Response | None) -> None:
    if response is not None:
        await call.write(response)
        log.debug("sent", extra={"nonce": response.nonce, "secrets": len(response.resources)})
